"""`overnight metrics`: an endpoint for Prometheus."""

from __future__ import annotations

import click

from overnight.home import Home


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=9464, show_default=True, type=click.IntRange(0, 65535))
def metrics(host: str, port: int) -> None:
    """Answer Prometheus on http://HOST:PORT/metrics until Ctrl-C; port 0 is any free one.

    What it tells is read from the warehouse; one that does not answer shows as overnight_up 0.
    """
    from overnight.dev import wait_for_signal
    from overnight.monitoring.endpoint import WarehouseCollector, serving

    home = Home.from_env()
    collector = WarehouseCollector(home=home.path, url=home.warehouse_url)
    with serving(collector, host=host, port=port) as url:
        click.echo(f"{url}   Ctrl-C stops it.")
        wait_for_signal()
