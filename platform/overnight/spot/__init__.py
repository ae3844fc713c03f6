"""What Overnight knows about machines that can be taken away: the warnings before it happens.

`notice` watches for them, `node` passes on the one that a container gets.
"""
