"""Health: that the service is up, and which providers have a key; never the key itself."""

from pathlib import Path

from tests.conftest import OWN_KEY, Client, make_settings, serve


def test_health_tells_the_version_and_which_providers_have_a_key(client: Client) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    health = answer.json()
    assert set(health) == {"status", "version", "providers"}
    assert health["status"] == "ok"
    assert health["version"]
    assert health["providers"] == {"poe": False, "openai": True, "echo": True}


def test_health_never_tells_a_key(tmp_path: Path) -> None:
    with serve(make_settings(tmp_path, poe_api_key="poe-very-private")) as client:
        answer = client.get("/health")
    assert answer.json()["providers"] == {"poe": True, "openai": True, "echo": True}
    assert "poe-very-private" not in answer.text
    assert OWN_KEY not in answer.text
