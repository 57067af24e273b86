from tests.conftest import forkserver, in_ranks  # noqa: F401  (fixtures)
