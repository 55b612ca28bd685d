"""The subnets and their zones: paste yours below, or name a file in SUBNETS_FILE.

As a program it checks and merges tables before they are put to use:

    aws ec2 describe-subnets --output json | python3 subnets.py
"""

from __future__ import annotations

import re
import signal
import sys
import zlib
from typing import Any

from common.names import ZONE_ID_LABEL, ZONE_LABEL
from lookup.near import NotOneZone, near_first
from lookup.table import InvalidSubnets, SubnetTable
from lookup.table_reader import TableReader, read_files
from lookup.table_writer import MAX_CONFIGMAP_SIZE, lines

# In place of these subnets, put yours. "Example" is no key of AWS's: it has the service warn of
# a table that is not yours.
#
# JSON's words, so that the output of this command can be pasted below as it is:
#   aws ec2 describe-subnets --output json --query 'Subnets[*].{CIDRBlock:CidrBlock,
#       AvailabilityZone:AvailabilityZone, AvailabilityZoneId:AvailabilityZoneId,
#       Ipv6CidrBlockAssociationSet:Ipv6CidrBlockAssociationSet}'
null, true, false = None, True, False

# fmt: off
SUBNETS_DATA: Any = [
    {"CIDRBlock": "192.168.0.0/19", "AvailabilityZone": "eu-central-1b", "AvailabilityZoneId": "euc1-az3", "Example": true},
    {"CIDRBlock": "192.168.32.0/19", "AvailabilityZone": "eu-central-1a", "AvailabilityZoneId": "euc1-az2", "Example": true},
    {"CIDRBlock": "192.168.64.0/19", "AvailabilityZone": "eu-central-1c", "AvailabilityZoneId": "euc1-az1", "Example": true},
    {"CIDRBlock": "192.168.96.0/19", "AvailabilityZone": "eu-central-1b", "AvailabilityZoneId": "euc1-az3", "Example": true},
    {"CIDRBlock": "192.168.128.0/19", "AvailabilityZone": "eu-central-1a", "AvailabilityZoneId": "euc1-az2", "Example": true},
    {"CIDRBlock": "192.168.160.0/19", "AvailabilityZone": "eu-central-1c", "AvailabilityZoneId": "euc1-az1", "Example": true},
]
# fmt: on


def pasted_table(node_label: str = ZONE_LABEL) -> SubnetTable:
    """The table that `SUBNETS_DATA` is. See `load`. Raises `InvalidSubnets`."""
    loader = TableReader(node_label)
    name = "SUBNETS_DATA: "
    loader.begin(name)
    loader.note_time_of(__file__)
    loader.add_document(SUBNETS_DATA)
    if _has_stray_list(_own_source()):
        loader.add_problem(f"{name}a second list stands below the first; make one list of both")
    return loader.table(name)


def _own_source() -> str:
    try:
        with open(__file__, encoding="utf-8") as source:
            return source.read()
    except (OSError, ValueError):  # there is only the compiled module
        return ""


def _has_stray_list(source: str) -> bool:
    """Whether a list or object stands by itself in a module: Python passes over it in silence."""
    if not re.search(r"^[\[{]", source, re.MULTILINE):
        return False
    import ast  # only now, because it takes much time and memory for a large table

    statements = (each.value for each in ast.parse(source).body if isinstance(each, ast.Expr))
    return any(isinstance(value, (ast.List, ast.Dict)) for value in statements)


# The command.


def main(arguments: list[str] | None = None) -> int:
    """Checks tables and prints them merged and sorted; the exit status is 2 if they are wrong."""
    options = _parse_arguments(arguments)
    try:
        if "-" in options.files and sys.stdin and sys.stdin.isatty():
            print("reading standard input; Ctrl-D ends it, --help says more", file=sys.stderr)
        table = read_files(options.files, options.node_label)
        size_warning = None if options.near else _size_warning(table)
        for warning in filter(None, (*table.warnings, size_warning)):
            print(f"warning: {warning}", file=sys.stderr)
        if options.near:
            print(*near_first(table, options.near), sep="\n")
        else:
            sys.stdout.writelines(lines(table))
    except InvalidSubnets as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 2
    except NotOneZone as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as a shell says of what SIGINT has ended
    return 0


def _parse_arguments(arguments: list[str] | None) -> Any:
    import argparse  # the service has no use for it, nor memory to spare

    parser = argparse.ArgumentParser(
        prog="python3 subnets.py",
        description="Checks tables of subnets, and prints them merged and sorted: ready to be "
        "pasted into SUBNETS_DATA, or to be the file that SUBNETS_FILE names. The exit status is "
        "2 if something is wrong with them; what it is goes to standard error.",
        epilog="For example: aws ec2 describe-subnets --output json | python3 subnets.py",
    )
    parser.add_argument(
        "files",
        nargs="*",
        default=["-"],
        metavar="FILE",
        help="what 'aws ec2 describe-subnets --output json' prints, or this program; several in "
        "one file, or compressed with gzip, are fine too; - (the default) is standard input",
    )
    parser.add_argument(
        "--node-label",
        choices=[ZONE_LABEL, ZONE_ID_LABEL],
        default=ZONE_LABEL,
        help="the service's NODE_LABEL, with which it will use the table; the default is the first",
    )
    parser.add_argument(
        "--near",
        metavar="ZONE",
        help="print no table, but what has CoreDNS (since 1.12.4) put the addresses of this zone "
        "first, by its name or its id",
    )
    return parser.parse_args(arguments)


def _size_warning(table: SubnetTable) -> str | None:
    """What kubectl would say of the table in a ConfigMap, and what helps."""
    size = sum(map(len, lines(table)))  # all of it is ASCII
    if size <= MAX_CONFIGMAP_SIZE:
        return None
    compressor = zlib.compressobj(9, wbits=31)  # as gzip -9 does it
    packed = sum(len(compressor.compress(line.encode())) for line in lines(table))
    packed += len(compressor.flush())
    said = f"{size:,} bytes are too large for a ConfigMap, which holds {MAX_CONFIGMAP_SIZE:,}"
    if packed <= MAX_CONFIGMAP_SIZE:
        return f"{said}; put through gzip -9 they are {packed:,}: name the file subnets.json.gz"
    return f"{said}, and {packed:,} after gzip -9 are, too: leave out what the cluster cannot reach"


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # ends quietly, as other filters do, if its reader has enough
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
