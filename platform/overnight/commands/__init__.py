"""The commands of the command line, one module for each topic; `overnight.cli` names them."""
