import subprocess
import sys

from tests.app.conftest import Client


def test_the_front_end_never_imports_torch() -> None:
    heavy = ("torch", "numpy", "onnx", "obstore", "sklearn", "models", "worker")
    code = f"import sys, app.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_openapi_knows_every_call_of_the_contract(client: Client) -> None:
    document = client.get("/openapi.json").json()
    calls = {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    }
    assert calls == {
        "POST /unlearn",
        "POST /unlearn/bulk",
        "GET /jobs",
        "GET /jobs/{job_id}",
        "GET /jobs/events",
        "POST /jobs/{job_id}/cancel",
        "GET /jobs/{job_id}/weights",
        "GET /jobs/{job_id}/report",
        "GET /jobs/{job_id}/certificate",
        "GET /webhooks/deliveries",
        "POST /webhooks/deliveries/{delivery_id}/replay",
        "POST /webhooks/secret",
        "POST /jobs/{job_id}/predict",
        "GET /keys",
        "GET /generators",
        "GET /generators/{generator_id}",
        "GET /healthz",
        "GET /metrics",
        "GET /readyz",
        "GET /queue",
    }
    assert "application/problem+json" in str(document["paths"]["/unlearn"]["post"]["responses"])
