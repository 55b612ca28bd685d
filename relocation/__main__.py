"""Lets running Pods follow their database, and reports who is in another zone than it.

    python3 -m relocation --report
    python3 -m relocation

A round's way: `look` gathers what there is, from the API server and from the lookup
service; `make_plan` decides; `Relocator` evicts. The Pods are then
created anew by their owners and placed as new Pods are.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from common import log
from common.errors import complain, shown
from common.kubernetes import Client, KubernetesError, own_namespace
from common.lease import LeaderElection
from common.listening import open_port
from common.names import RELOCATION_AGENT, VERSION
from common.settings import InvalidSetting
from common.signals import end_at_once
from relocation.lookup_client import NAMES, LookupFailure
from relocation.program import Program
from relocation.report import report
from relocation.rounds import Relocator
from relocation.settings import HISTORY_ANNOTATION, LEASE, RelocationSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs as the environment says; the exit status is 2 if that is not possible."""
    end_at_once()
    options = options_of(arguments)
    try:
        settings = RelocationSettings.from_environment(os.environ)
        api = Client.from_environment(os.environ, RELOCATION_AGENT)
    except ValueError as error:
        return complain(str(error), status=2)
    warnings = list(RelocationSettings.misspelt(os.environ))
    if options.report:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        return print_report(api, settings, options)
    try:
        election = candidate(api, settings)
        listener = open_port(settings.host, "PORT", settings.port)
    except InvalidSetting as error:
        return complain(str(error), status=2)
    handler = log.start(settings.log_level)
    log.warn(warnings)
    relocator = Relocator(api, settings, election, handler.dropped if handler else None)
    asyncio.run(Program(relocator).run(listener))
    return 0


def candidate(api: Client, settings: RelocationSettings) -> LeaderElection:
    """The candidate for the Lease of the namespace. Raises `InvalidSetting`."""
    namespace = settings.namespace or own_namespace()
    if not namespace:
        raise InvalidSetting("NAMESPACE is not set, and this is not a Pod of a cluster")
    return LeaderElection(api, namespace, LEASE, HISTORY_ANNOTATION)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says; ends the process for `--help`, `--version` and what is wrong."""
    parser = RelocationSettings.parser(
        "Evicts Pods whose database has moved to another zone, or reports them.", os.environ
    )
    parser.allow_abbrev = False
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--report", action="store_true", help="report once, and change nothing")
    parser.add_argument("--name", default="", help="report on Pods as if they had this annotation")
    parser.add_argument("-l", "--selector", default="", help="report on Pods with these labels")
    parser.add_argument("-n", "--namespace", default="", help="report on Pods of this namespace")
    options = parser.parse_args(arguments)
    if not options.report and (options.name or options.selector or options.namespace):
        parser.error("--name, --selector and --namespace go with --report")
    if options.name and not NAMES.fullmatch(options.name):
        parser.error(f"--name: {shown(options.name)} is not a domain name, or several with commas")
    return options


def print_report(api: Client, settings: RelocationSettings, options: argparse.Namespace) -> int:
    """Prints the report; the exit status is 1 if something could not be read."""
    query = {"labelSelector": options.selector, "namespace": options.namespace}
    try:
        lines = report(api, settings, options.name, {k: v for k, v in query.items() if v})
    except (KubernetesError, LookupFailure) as error:
        return complain(str(error), status=1)
    if hasattr(signal, "SIGPIPE"):  # ends quietly, as other filters do, if its reader has enough
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
