import subprocess
import sys

import httpx

from core import certificate, dsse
from core.dsse import SigningKey
from core.ledger import Outcome
from core.states import Status
from core.trust import keys_for
from tests.app.conftest import Client
from tests.app.test_jobs import post, problem
from tests.core.test_certificate import ANSWER


def certified(client: Client, key: SigningKey) -> str:
    """Finish a job as a worker does, and return its id."""
    job_id = str(post(client)["id"])
    ledger = client.services.ledger
    ledger.add_signing_key(key.jwk)
    (held,) = ledger.claim(job_id, "w", 1, 60)
    stored = {"weights": {"sha256": ANSWER.weights}, "report": {"sha256": ANSWER.report}}
    certify = certificate.certifier(held, ANSWER, key)
    assert ledger.finish(held, Outcome(Status.SUCCEEDED, {}, stored, certify=certify))
    return job_id


def test_a_certificate_is_served_and_holds_against_the_served_keys(
    client: Client, signing_key: SigningKey
) -> None:
    job_id = certified(client, signing_key)
    job = client.get(f"/jobs/{job_id}").json()
    answer = client.get(job["links"]["certificate"])
    assert answer.headers["content-type"] == "application/json"
    keys = dsse.read_keys(client.get("/keys").content)
    found = certificate.verify(answer.content, keys)
    assert found.predicate["job"]["id"] == job_id
    assert found.key == signing_key.id
    etag = answer.headers["etag"]
    again = client.get(job["links"]["certificate"], headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_keys_are_a_jwk_set_that_may_be_cached(client: Client, signing_key: SigningKey) -> None:
    client.services.ledger.add_signing_key(signing_key.jwk)
    answer = client.get("/keys")
    assert signing_key.jwk in answer.json()["keys"]
    assert answer.headers["cache-control"] == "public, max-age=300"
    again = client.get("/keys", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == answer.headers["cache-control"]


def test_a_rotated_key_stays_listed(client: Client, signing_key: SigningKey) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    old = client.get(f"/jobs/{certified(client, signing_key)}/certificate").content
    new = SigningKey.of(Ed25519PrivateKey.generate())
    certified(client, new)
    keys = dsse.read_keys(client.get("/keys").content)
    assert {signing_key.id, new.id} <= set(keys)
    certificate.verify(old, keys)


def test_the_front_end_holds_no_private_key(client: Client) -> None:
    assert not list(client.services.settings.home.glob("*.pem"))
    code = "import sys, app.main; print('core.dsse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_trust_may_come_from_a_service(client: Client, signing_key: SigningKey) -> None:
    client.services.ledger.add_signing_key(signing_key.jwk)
    url = str(client.base_url)
    for given in (url, url + "/"):
        keys, why = keys_for(signing_key.jwk, None, None, given)
        assert signing_key.id in keys
        assert url in why


def test_a_job_without_a_certificate_says_why(client: Client) -> None:
    waiting = post(client)
    assert waiting["links"]["certificate"] is None
    assert "is queued" in missing(client, waiting["id"])
    client.post(waiting["links"]["cancel"])
    assert "is canceled" in missing(client, waiting["id"])
    before = post(client)
    (held,) = client.services.ledger.claim(before["id"], "w", 1, 60)
    client.services.ledger.finish(held, Outcome(Status.SUCCEEDED))
    assert "before there were any" in missing(client, before["id"])


def missing(client: Client, job_id: str) -> str:
    answer: httpx.Response = client.get(f"/jobs/{job_id}/certificate")
    return str(problem(answer, 409)["detail"])


def test_a_foreign_id_is_404(client: Client) -> None:
    problem(client.get("/jobs/nope/certificate"), 404)
