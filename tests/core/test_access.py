import pytest
import sqlalchemy as sa

from core.access import ApiKey, Keys, Scope, api_keys, is_loopback, may_listen
from core.ledger import Ledger


@pytest.fixture
def keys(ledger: Ledger) -> Keys:
    return Keys(ledger)


def test_a_token_finds_its_key(keys: Keys) -> None:
    made, token = keys.create({Scope.JOBS, Scope.UNLEARN}, "acme", "ci")
    other, _ = keys.create({Scope.ADMIN})
    assert keys.find(token) == made
    assert (made.tenant, made.name) == ("acme", "ci")
    assert token.startswith(f"hf_{made.id}_")
    assert keys.all() == [made, other]


def test_no_token_is_stored(ledger: Ledger, keys: Keys) -> None:
    _, token = keys.create({Scope.JOBS})
    secret = token.split("_", 2)[2]
    with ledger.read() as connection:
        (row,) = connection.execute(sa.select(api_keys)).all()
    assert not any(secret in str(value) for value in row)


def test_only_the_whole_token_opens(keys: Keys) -> None:
    made, token = keys.create({Scope.JOBS})
    _, other = keys.create({Scope.JOBS})
    stranger = f"hf_{made.id}_{other.split('_', 2)[2]}"
    flipped = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (stranger, flipped, token[:-1], token + "A", "", made.id, f"hf_{'0' * 12}_x"):
        assert keys.find(wrong) is None


def test_a_revoked_key_opens_nothing_and_stays_listed(keys: Keys) -> None:
    assert not keys.any()
    made, token = keys.create({Scope.JOBS})
    assert keys.revoke(made.id)
    assert keys.find(token) is None
    assert keys.any()  # the last key revoked must not open the service to everyone
    (listed,) = keys.all()
    assert listed.revoked_at is not None
    assert not keys.revoke(made.id)
    assert not keys.revoke("0" * 12)


@pytest.mark.parametrize(
    ("scopes", "tenant", "name", "field"),
    [
        (set(), "a", "", "scopes"),
        ({Scope.JOBS}, "A b", "", "tenant"),
        ({Scope.JOBS}, "", "", "tenant"),
        ({Scope.JOBS}, "a" * 65, "", "tenant"),
        ({Scope.JOBS}, "a", "x" * 201, "name"),
        ({Scope.JOBS}, "a", "\n", "name"),
    ],
)
def test_bad_keys_are_refused(
    keys: Keys, scopes: set[Scope], tenant: str, name: str, field: str
) -> None:
    with pytest.raises(ValueError, match=field):
        keys.create(scopes, tenant, name)
    assert keys.all() == []


def test_admin_may_do_everything_and_others_what_they_name() -> None:
    def may(*scopes: Scope) -> set[Scope]:
        key = ApiKey("i", "t", "", frozenset(scopes), 0, None)
        return {scope for scope in Scope if key.may(scope)}

    assert may(Scope.ADMIN) == set(Scope)
    assert may(Scope.JOBS, Scope.UNLEARN) == {Scope.JOBS, Scope.UNLEARN}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", "::", "", "127.0.0.1.x"])
def test_listening_beyond_loopback_takes_a_key(keys: Keys, host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ValueError, match="loopback"):
        may_listen(host, keys)
    keys.create({Scope.JOBS})
    may_listen(host, keys)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_loopback_is_fine(keys: Keys, host: str) -> None:
    may_listen(host, keys)
