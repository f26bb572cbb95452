"""
Torture a service: upgrade it again and again, with broken releases and kills in
between, while clients ask it without a pause, and report what they saw.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from txtableflip._launch.signals import redeploySignal
from txtableflip.testing._clients import Exchange, Http, Question
from txtableflip.testing._service import TortureError
from txtableflip.testing._torture import Torture

EXAMPLES = """
examples:
  python -m txtableflip.testing --get / --expect Hello --
      twistd --nodaemon --pidfile= web --listen tableflip:tcp:{port} --path .
  python -m txtableflip.testing --send 'ping\\r\\n' --expect 'pong\\r\\n' --
      twistd --nodaemon --pidfile= tableflip --app 'myapp' -- --port {port}

The exit status is 0 if no client could tell, 1 if one could, and 2 if there was
nothing to test.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """
    Read the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m txtableflip.testing",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--get", default="/", metavar="PATH", help="ask by HTTP (default: /)")
    parser.add_argument("--send", metavar="TEXT", help="ask by sending this, instead of HTTP")
    parser.add_argument(
        "--expect",
        default="",
        metavar="REGEX",
        help="what must be found in the body; with --send, what the whole answer is",
    )
    parser.add_argument(
        "--upgrades", type=int, default=10, help="number of upgrades (default: 10)"
    )
    parser.add_argument("--clients", type=int, default=1, help="number of clients of each kind")
    parser.add_argument("--port", type=int, help="where it listens (default: a free one)")
    parser.add_argument(
        "--signal", default="HUP", help="the signal that redeploys (default: HUP)"
    )
    parser.add_argument("--json", metavar="FILE", help="where to write the report as JSON")
    parser.add_argument("--picture", metavar="FILE", help="where to draw it: .png, .svg")
    parser.add_argument("command", nargs="+", help="starts the service; {port}: the port")
    options = parser.parse_args(arguments)
    if options.send is not None and not options.expect:
        parser.error("--send needs --expect: what does the whole answer look like?")
    try:
        options.signal = redeploySignal(options.signal)
    except ValueError as error:
        parser.error(f"--signal: {error}")
    return options


def questionOf(options: argparse.Namespace) -> Question:
    """
    @return: what clients ask.
    """
    if options.send is None:
        return Http(options.get, options.expect)
    sent = options.send.encode("latin-1", "backslashreplace").decode("unicode_escape")
    return Exchange(sent.encode(), options.expect)


def main(arguments: Sequence[str]) -> int:
    """
    Run the command.

    @return: its exit status.
    """
    options = parse(arguments)
    try:
        report = Torture(
            options.command,
            questionOf(options),
            upgrades=options.upgrades,
            clients=options.clients,
            port=options.port,
            redeploy=options.signal,
            deployed=lambda line: print(line, flush=True),
        ).run()
    except (TortureError, ValueError) as error:
        print(f"cannot run the torture test: {error}", file=sys.stderr)
        return 2
    print(f"\n{report.table()}")
    if options.json:
        Path(options.json).write_text(report.json(), encoding="utf-8")
    if options.picture:
        report.picture(options.picture)
    return 1 if report.failures else 0


if __name__ == "__main__":
    # What would end this process must end the service, too.
    signal.signal(signal.SIGTERM, lambda *ignored: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(sys.argv[1:]))
