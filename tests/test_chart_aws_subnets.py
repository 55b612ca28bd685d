"""The job that gathers the subnets, as the chart installs it."""

from __future__ import annotations

import re
import tempfile
import unittest
from pathlib import Path
from typing import Any

import publish
from tests.chart import (
    AVAILABLE,
    FILES,
    ROOT,
    WHY_NOT,
    Objects,
    environment,
    named,
    render,
)

PAGE = (ROOT / "docs" / "fresh-table.md").read_text()
SCRIPT = FILES / "gather-subnets.sh"
ENABLED = "awsSubnets.enabled=true"


@unittest.skipUnless(AVAILABLE, WHY_NOT)
class JobTest(unittest.TestCase):
    def setUp(self) -> None:
        self.take(render(ENABLED))

    def take(self, objects: Objects) -> None:
        self.objects = objects
        self.cron_job = objects.one("CronJob")["spec"]
        self.job = self.cron_job["jobTemplate"]["spec"]
        self.pod = objects.pod("subnets")
        *_, self.gather = self.pod["initContainers"]
        self.publish = objects.container("subnets")

    def test_the_names_go_together(self) -> None:
        for values, options in (((), {}), (("fullnameOverride=my",), {"namespace": "zones"})):
            with self.subTest(values):
                self.take(render(ENABLED, *values, **options))
                name = self.objects.one("ConfigMap", "-gathered")["metadata"]["name"]
                rule, _ = self.objects.one("Role")["rules"]
                self.assertEqual(rule["resourceNames"], [name])
                table = named(self.objects.pod()["volumes"], "subnets")["configMap"]
                self.assertEqual(table["name"], name)
                self.assertEqual(environment(self.publish)["CONFIG_MAP"], name)
                account = self.objects.one("ServiceAccount")["metadata"]
                (subject,) = self.objects.one("RoleBinding")["subjects"]
                self.assertEqual(subject["name"], account["name"])
                self.assertEqual(subject["namespace"], account["namespace"])
                self.assertEqual(self.pod["serviceAccountName"], account["name"])

    def test_its_rights(self) -> None:
        found = [(each["resources"], each["verbs"]) for each in self.objects.one("Role")["rules"]]
        self.assertEqual(found, [(["configmaps"], ["get", "update"]), (["events"], ["create"])])

    def test_the_table_is_the_job_s_alone(self) -> None:
        """An upgrade has nothing to say about it."""
        table = self.objects.one("ConfigMap", "-gathered")
        self.assertFalse({"data", "binaryData"} & table.keys())

    def test_the_service_waits_for_the_table(self) -> None:
        source = named(self.objects.pod()["volumes"], "subnets")["configMap"]
        self.assertEqual(source["items"], [{"key": publish.KEY, "path": publish.KEY}])
        self.assertNotIn("optional", source)

    def test_its_first_half_is_the_script(self) -> None:
        name = named(self.pod["volumes"], "script")["configMap"]["name"]
        self.assertEqual(self.objects["ConfigMap", name]["data"], {SCRIPT.name: SCRIPT.read_text()})
        mounts = {each["name"]: each["mountPath"] for each in self.gather["volumeMounts"]}
        gathered = f"{mounts['gathered']}/subnets.json"
        command = f"sh {mounts['script']}/{SCRIPT.name} > {gathered}"
        self.assertEqual(self.gather["command"], ["sh", "-c", command])
        self.assertEqual(self.publish["command"][2:], [gathered])

    def test_its_settings(self) -> None:
        self.take(
            render(
                ENABLED,
                "awsSubnets.settings.awsRegions={eu-central-1,us-east-1}",
                "awsSubnets.settings.awsAccounts={self,arn:aws:iam::222222222222:role/subnets}",
                "settings.nodeLabel=topology.k8s.aws/zone-id",
            )
        )
        variables = environment(self.gather)
        self.assertEqual(variables["AWS_REGIONS"], "eu-central-1 us-east-1")
        self.assertEqual(variables["AWS_ACCOUNTS"], "self arn:aws:iam::222222222222:role/subnets")
        self.assertEqual(environment(self.publish)["NODE_LABEL"], "topology.k8s.aws/zone-id")
        self.assertEqual(list(publish.PublishSettings.misspelt(environment(self.publish))), [])

    def test_its_role_in_aws(self) -> None:
        role = "arn:aws:iam::111111111111:role/subnets"
        annotation = r"eks\.amazonaws\.com/role-arn"
        objects = render(ENABLED, f"awsSubnets.serviceAccount.annotations.{annotation}={role}")
        annotations = objects.one("ServiceAccount")["metadata"]["annotations"]
        self.assertEqual(annotations, {"eks.amazonaws.com/role-arn": role})

    def test_the_values_for_other_clouds(self) -> None:
        blocks = re.findall(r"^```yaml\n(awsSubnets:.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        self.assertEqual(len(blocks), 2)
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (script := folder / "gather.sh").write_text("true\n")
        for number, block in enumerate(blocks):
            with self.subTest(block):
                (values := folder / f"{number}.yaml").write_text(block)
                self.take(render(ENABLED, f"@awsSubnets.script={script}", values=str(values)))
                self.check_cloud()

    def check_cloud(self) -> None:
        """A run each minute, of this script, in containers as restricted as the others."""
        self.assertEqual(self.cron_job["schedule"], "* * * * *")
        self.assertEqual(self.objects.one("ConfigMap", "-gather")["data"], {SCRIPT.name: "true\n"})
        shell, *_ = self.gather["command"]
        self.assertTrue(self.gather["command"][-1].startswith(f"{shell} /script/{SCRIPT.name} >"))
        for each in self.pod["initContainers"]:
            self.assertEqual(each["securityContext"], self.publish["securityContext"])

    def test_runs_do_not_overlap_and_end(self) -> None:
        self.assertEqual(self.cron_job["concurrencyPolicy"], "Forbid")
        self.assertLess(self.job["activeDeadlineSeconds"], 15 * 60)

    def test_labels_of_its_own(self) -> None:
        objects = render(ENABLED, "awsSubnets.podLabels.azure=yes")
        template: Any = objects.one("CronJob")["spec"]["jobTemplate"]["spec"]["template"]
        self.assertEqual(template["metadata"]["labels"]["azure"], "yes")


if __name__ == "__main__":
    unittest.main()
