"""What the tests of tables share: entries, and what is said of them."""

from __future__ import annotations

import gzip
import json
from ipaddress import ip_address

from lookup.table import (
    InvalidSubnets,
    SubnetTable,
)
from lookup.table_reader import load, parse

ZONE = "topology.kubernetes.io/zone"

ZONE_ID = "topology.k8s.aws/zone-id"

GOOD = {"CIDRBlock": "172.16.0.0/12", "AvailabilityZone": "zone-a"}

# Not SUBNETS_DATA: that is the user's to change.
EXAMPLE = [
    {"CIDRBlock": "192.168.0.0/19", "AvailabilityZone": "zone-b", "AvailabilityZoneId": "az3"},
    {"CIDRBlock": "192.168.32.0/19", "AvailabilityZone": "zone-a", "AvailabilityZoneId": "az2"},
    {"CIDRBlock": "192.168.64.0/19", "AvailabilityZone": "zone-c", "AvailabilityZoneId": "az1"},
]

# "Subnet" in the EC2 API reference, without the keys that are read.
AWS_KEYS = """
    AssignIpv6AddressOnCreation AvailableIpAddressCount BlockPublicAccessStates
    CustomerOwnedIpv4Pool DefaultForAz EnableDns64 EnableLniAtDeviceIndex
    Ipv6Native MapCustomerOwnedIpOnLaunch MapPublicIpOnLaunch
    NetworkFirewallConnectivityType OutpostArn OwnerId PrivateDnsNameOptionsOnLaunch State
    SubnetArn SubnetId Tags Type VpcId
"""

# JSON in which a key is given twice, the key, and the line of the value that it is in
GIVEN_TWICE = [
    (
        '[{"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "a", "CIDRBlock": "10.0.0.0/9"}]',
        "CIDRBlock",
        1,
    ),
    (
        '[{"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "a",\n"AvailabilityZone": "a"}]',
        "AvailabilityZone",
        1,
    ),
    ('[\n\n{"a": 1,\n"a": 1}]', "a", 3),
    ('[\n{"CIDRBlock": "10.0.0.0/8", "NodeLabels": {"b": "1", "a": "1", "a": "2"}}]', "a", 2),
    ('{"Subnets": [\n{"Tags": [{"Key": "a", "Key": "a"}]}]}', "Key", 2),
    ('{"Subnets": [],\n"Subnets": []}', "Subnets", 2),
    ('{"Subnets": [], "Note": 1,\n"Other": 2, "Note": 1}', "Note", 2),
    ('[]\n{"Subnets": [], "NextToken": null, "NextToken": null}', "NextToken", 2),
]

# What is no JSON; "^" is where that shows, and %s an entry.
MALFORMED_DOCUMENTS = [
    "[^",
    "^]",
    "[{^]",
    "[] ^x",
    "[%s,^]",
    "[%s ^%s]",
    "[\n%s,\n  %s\n^",
    "[^,%s]",
    "[%s^}",
    "{^'Subnets': []}",
    '{"Subnets": [%s]^',
    '{"Subnets": [%s]^]',
    '{"Subnets" ^[%s]}',
    '{"Subnets": [%s],^}',
    '{"Subnets":\n[%s, ^x]}',
    "^\0",
    "[^\u00a0%s]",
]


def entry(cidr: object, zone: object = "zone-a", **more: object) -> dict[str, object]:
    """An entry; `id` is its AvailabilityZoneId."""
    if "id" in more:
        more["AvailabilityZoneId"] = more.pop("id")
    return {"CIDRBlock": cidr, "AvailabilityZone": zone} | more


def problems(*documents: object, node_label: str = ZONE) -> list[str]:
    """What is wrong with them; nothing if they are fine."""
    try:
        load(*documents, node_label=node_label)
    except InvalidSubnets as error:
        return error.problems
    return []


def text_problems(text: str) -> list[str]:
    try:
        parse(text)
    except InvalidSubnets as error:
        return error.problems
    return []


def messages(*documents: object, node_label: str = ZONE) -> list[str]:
    """What is wrong with them, or what is warned of."""
    try:
        return list(load(*documents, node_label=node_label).warnings)
    except InvalidSubnets as error:
        return error.problems


def found(table: SubnetTable, address: str) -> str | None:
    subnet = table.match(ip_address(address))
    return subnet and subnet.cidr


FORMS = (
    '[{"CIDRBlock": "10.0.0.0/8", "AvailabilityZone": "a", "AvailabilityZoneId": "i"}]',
    '[{"CidrBlock": "10.0.0.0/8", "AvailabilityZone": "a", "AvailabilityZoneId": "i"}]',
    '{"Subnets": [{"CidrBlock": "10.0.0.0/8", "AvailabilityZone": "a", "AvailabilityZoneId": '
    '"i", "MapPublicIpOnLaunch": false, "Tags": [{"Key": "Name", "Value": ""}]}]}',
)


def compressed(*parts: bytes) -> bytes:
    return b"".join(map(gzip.compress, parts))


PLAIN = json.dumps(EXAMPLE).encode()
