"""The release workflow says what docs/publishing.md tells PyPI, and only its last job may publish."""

import re

import yaml
from places import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
GUIDE = (ROOT / "docs" / "publishing.md").read_text(encoding="utf-8")


def test_only_the_job_that_publishes_can_prove_who_it_is():
    jobs = WORKFLOW["jobs"]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert [name for name, job in jobs.items() if "permissions" in job] == ["publish"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert set(jobs["publish"]["needs"]) == jobs.keys() - {"publish"}
    assert not [step for step in jobs["publish"]["steps"] if "run" in step]


def test_the_guide_registers_this_workflow_and_environment():
    registered = re.search(r"project `([\w.-]+)`.*?workflow `([\w.-]+)`, environment `([\w.-]+)`", GUIDE, re.DOTALL)
    assert registered.groups() == ("molkernels", "release.yml", WORKFLOW["jobs"]["publish"]["environment"])
