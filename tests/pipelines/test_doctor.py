"""The doctor states facts as JSON, and a problem always comes with a cure."""

import json

import pytest

from medsci.errors import WeightsError
from medsci.pipelines import doctor


def test_facts_are_json_and_complete():
    facts = doctor.examine()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["numpy"]
    assert facts["cpu"]["cores"] >= 1
    assert {"memory_gib", "gpus", "weights", "problems"} <= set(facts)


def test_a_missing_library_is_a_problem(monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "monai" else known(name))
    assert any("monai is not installed" in text for text in doctor.examine()["problems"])


def test_a_busy_machine_is_a_problem_and_an_idle_one_is_not(monkeypatch):
    monkeypatch.setattr(doctor, "load_average", lambda: 1e6)
    assert any("load average" in text for text in doctor.examine()["problems"])
    monkeypatch.setattr(doctor, "load_average", lambda: 0.0)
    assert not any("load average" in text for text in doctor.examine()["problems"])


def test_damaged_weights_are_a_problem_of_that_model_only(monkeypatch, tmp_path):
    import medsci.models

    class Info:
        def __init__(self, name):
            self.name = name

    def verify(name):
        if name == "broken":
            raise WeightsError("broken is damaged; fetch it again")

    monkeypatch.setattr(medsci.models, "list_models", lambda: [Info("broken"), Info("sound")])
    monkeypatch.setattr(medsci.models, "verify_model", verify)
    facts = doctor.examine()
    assert facts["weights"] == [{"name": "broken", "ok": False}, {"name": "sound", "ok": True}]
    assert "broken is damaged; fetch it again" in facts["problems"]


@pytest.mark.parametrize(("gpus", "warns"), [(["Some GPU"], True), ([], False)])
def test_a_gpu_with_a_cpu_build_is_a_problem(monkeypatch, gpus, warns):
    monkeypatch.setattr(doctor, "_gpus", lambda: gpus)
    monkeypatch.setattr(doctor, "_version", lambda name: "2.13.0+cpu")
    assert any("CPU build" in text for text in doctor.examine()["problems"]) == warns
