"""What gathers the subnets from AWS: from there to the table, and to the answer."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tempfile
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import publish
from common.names import ZONE_LABEL
from lookup.table_file import TableFile
from lookup.table_reader import parse
from tests import aws
from tests.api_server import listening
from tests.chart import FILES
from tests.support import Run, running, wait_until
from tests.test_publish import ConfigMapServer, config_map

SCRIPT = FILES / "gather-subnets.sh"

GOOD = {"CIDRBlock": "10.0.0.0/24", "AvailabilityZone": "zone-a"}

FIRST, SECOND, THIRD = "111111111111", "222222222222", "333333333333"
REGIONS = "eu-central-1 us-east-1"

MISSING = [tool for tool in ("aws", "moto_server") if not shutil.which(tool)]

# A run of the script makes some ten calls; each takes half a second of processor time.
RUN_TIMEOUT = 180


# In the place of the AWS command line: notes how it was called, and then goes on as it is told.
STAND_IN = """#!/bin/sh
echo "$@" >> calls
cat table
{} > /dev/null
"""

# Signals that may stop the script: the first as a terminal's end, the second as Ctrl-C.
SIGNALS = ("HUP", "INT", "TERM")


class ScriptTest(unittest.TestCase):
    """The script, with a stand-in for the AWS command line."""

    def gather(self, then: str = ":", **environment: str) -> Run:
        """Runs it in two regions; in each, after the table, the stand-in does this."""
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        command = self.folder / "aws"
        command.write_text(STAND_IN.format(then))
        command.chmod(0o755)
        (self.folder / "table").write_text(json.dumps([GOOD]))
        run = subprocess.run(
            ["sh", str(SCRIPT)],
            env={"PATH": f"{self.folder}:{os.environ['PATH']}", "AWS_REGIONS": REGIONS}
            | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT,
        )
        return Run(run.returncode, run.stdout, run.stderr.splitlines())

    def test_it_is_complete_if_nothing_stops_it(self) -> None:
        run = self.gather()
        self.assertEqual((run.status, run.errors), (0, []))
        self.assertEqual(len(parse(run.output)), 1)

    def test_what_it_has_printed_when_it_is_stopped_is_no_table(self) -> None:
        for signal in SIGNALS:
            with self.subTest(signal):
                run = self.gather(f"kill -{signal} $PPID")
                self.assertEqual((run.status, run.errors), (1, ["gather-subnets: stopped"]))
                with self.assertRaisesRegex(ValueError, "not JSON"):
                    parse(run.output)

    def test_an_endpoint_that_hangs_is_given_up(self) -> None:
        self.gather(AWS_ACCOUNTS="self arn:aws:iam::222222222222:role/subnets")
        calls = (self.folder / "calls").read_text().splitlines()
        self.assertEqual(len(calls), 6)
        for call in calls:
            self.assertIn("--cli-connect-timeout 5 --cli-read-timeout 20 ", call)


@unittest.skipIf(
    MISSING, f"not on PATH: {' and '.join(MISSING)} (pip install moto flask flask-cors awscli)"
)
class GatherTest(unittest.TestCase):
    """The script, with the AWS command line."""

    gateway: aws.Gateway
    networks: dict[tuple[str, str], aws.Network]
    shared: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.gateway = cls.enterClassContext(aws.serving())
        cls.networks = {
            (account, region): aws.Network(cls.gateway, account, region, f"10.{number}.0.0/16")
            for number, (account, region) in enumerate(
                (account, region) for account in (FIRST, SECOND) for region in REGIONS.split()
            )
        }
        for number, network in enumerate(cls.networks.values()):
            for subnet in range(3):
                network.add("abc"[subnet], f"10.{number}.{subnet}.0/24")
            network.add("a")
        cls.shared = cls.networks[SECOND, "eu-central-1"].add("a", "10.2.9.0/24")

    def setUp(self) -> None:
        self.gateway.reset()
        self.home = self.enterContext(tempfile.TemporaryDirectory())

    def gather(
        self, *accounts: str, own: str = FIRST, regions: str = "eu-central-1", **environment: str
    ) -> Run:
        """Runs the script in an environment without anybody's own settings."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": self.home,
            "AWS_ENDPOINT_URL": self.gateway.url,
            "AWS_ACCESS_KEY_ID": self.gateway.key(own),
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ACCOUNTS": " ".join(accounts),
            "AWS_REGIONS": regions,
        } | environment
        run = subprocess.run(
            ["sh", str(SCRIPT)],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT,
        )
        return Run(run.returncode, run.stdout, run.stderr.splitlines())

    def assert_nothing(self, run: Run, *words: str) -> None:
        """It has failed, says why, and nobody can take what it has printed for a table."""
        self.assertEqual(run.status, 1, run)
        for word in words:
            self.assertIn(word, "\n".join(run.errors))
        with self.assertRaisesRegex(ValueError, "not JSON"):
            parse(run.output)

    def test_two_accounts_and_two_regions(self) -> None:
        """With pages, an IPv6-only subnet, and one that the second account shares with the first."""
        self.gateway.shared = {(FIRST, "eu-central-1"): self.shared}
        self.gateway.page_size = 3
        run = self.gather(self.gateway.role(FIRST), self.gateway.role(SECOND), regions=REGIONS)
        self.assertEqual((run.status, run.errors), (0, []))
        self.assertEqual(run.output.count('"10.2.9.0/24"'), 2)
        table = parse(run.output)
        found = {subnet.cidr: subnet.zone for subnet in table}
        expected = {
            network.ipv6: f"{region}a" for (_, region), network in self.networks.items()
        } | {
            f"10.{number}.{subnet}.0/24": f"{region}{'abc'[subnet]}"
            for number, (_, region) in enumerate(self.networks)
            for subnet in range(3)
        }
        self.assertEqual(found, expected | {"10.2.9.0/24": "eu-central-1a"})
        self.assertEqual(table.warnings, ())
        self.assertEqual(self.gateway.asked.count("DescribeSubnets"), 8)  # each has two pages

    def test_its_own_credentials_and_region_by_default(self) -> None:
        run = self.gather(regions="", AWS_REGION="us-east-1")
        self.assertEqual((run.status, run.errors), (0, []))
        expected = {f"10.1.{n}.0/24" for n in range(3)} | {self.networks[FIRST, "us-east-1"].ipv6}
        self.assertEqual({subnet.cidr for subnet in parse(run.output)}, expected)
        self.assertEqual(self.gateway.asked, ["DescribeSubnets"])

    def test_profiles_and_filters(self) -> None:
        """A profile counts more than the credentials in the environment, a filter is no file name."""
        config = Path(self.home) / ".aws"
        config.mkdir()
        (config / "credentials").write_text(
            f"[shop]\naws_access_key_id = {self.gateway.key(SECOND)}\naws_secret_access_key = x\n"
        )
        (Path(self.home) / "Name=cidr-block,Values=10.x.1.0").mkdir()
        (Path(self.home) / "Name=cidr-block,Values=10.x.1.0" / "24").touch()
        vpc = self.networks[SECOND, "eu-central-1"].vpc
        run = self.gather(
            "shop", AWS_FILTERS=f"Name=vpc-id,Values={vpc} Name=cidr-block,Values=10.*.1.0/24"
        )
        self.assertEqual((run.status, run.errors), (0, []))
        self.assertEqual([subnet.cidr for subnet in parse(run.output)], ["10.2.1.0/24"])

    def test_a_role_that_is_refused(self) -> None:
        self.gateway.refused_role = self.gateway.role(SECOND)
        run = self.gather("self", self.gateway.role(SECOND))
        self.assert_nothing(
            run, "AccessDenied", f"no subnets of {self.gateway.role(SECOND)} in eu-central-1"
        )
        self.assertIn("10.0.0.0/24", run.output)  # there was a part

    def test_an_api_that_throttles_is_asked_again(self) -> None:
        self.gateway.throttled = 2
        run = self.gather()
        self.assertEqual((run.status, run.errors), (0, []))
        self.assertEqual(self.gateway.asked, ["DescribeSubnets"] * 3)
        self.assertEqual(len(parse(run.output)), 4)

    def test_an_api_that_throttles_all_the_time(self) -> None:
        self.gateway.throttled = 1000
        run = self.gather(AWS_MAX_ATTEMPTS="2")
        self.assert_nothing(run, "RequestLimitExceeded", "no subnets of self in eu-central-1")

    def test_nobody_says_which_region(self) -> None:
        self.assert_nothing(self.gather(regions=""), "AWS_REGIONS is not set")

    def test_from_a_new_subnet_to_the_answer(self) -> None:
        """A run of the job and a reload, and what was looked up before is answered for."""
        network = aws.Network(self.gateway, THIRD, "eu-central-1", "10.9.0.0/16")
        network.add("a", "10.9.0.0/24")
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        file = folder / "subnets.json"
        with listening(ConfigMapServer()) as api:
            api.change(config_map())

            def run_job() -> None:
                run = self.gather(own=THIRD)
                (folder / "gathered.json").write_text(run.output)
                environment = {
                    "KUBERNETES_URL": api.url,
                    "NAMESPACE": "zones",
                }
                with mock.patch.dict(os.environ, environment), redirect_stdout(io.StringIO()):
                    self.assertEqual(publish.main([str(folder / "gathered.json")]), 0)
                (folder / "new").write_text(api.config_map["data"]["subnets.json"])
                (folder / "new").replace(file)  # the kubelet's part

            run_job()
            table = TableFile(str(file), ZONE_LABEL)
            with running(json.loads(file.read_text()), SUBNETS_FILE=str(file)) as client:
                self.assertEqual(client.lookup("10.9.0.7").body["zone"], "eu-central-1a")
                self.assertEqual(client.lookup("10.9.1.7").body["reason"], "ZoneNotFound")
                table.read()
                with mock.patch("common.file_watch.INTERVAL", 0.01):
                    table.watch(client.loop, client.server.service.reload)
                    network.add("b", "10.9.1.0/24")
                    run_job()
                    wait_until(lambda: client.lookup("10.9.1.7").status == 200)
                self.assertEqual(client.lookup("10.9.1.7").body["zone"], "eu-central-1b")
                table.unwatch()


if __name__ == "__main__":
    unittest.main()
