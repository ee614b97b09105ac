"""One hub with real servers, and one run on it, for all tests of this folder that ask for them."""

from tests.services.servers import client, mlflow_server, prefect_server, running_hub
from tests.services.shownrun import shown

__all__ = ["client", "mlflow_server", "prefect_server", "running_hub", "shown"]
