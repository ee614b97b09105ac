#!/bin/sh
# The hub in a container: the servers in the background, the worker that runs the flows in front. The container ends
# with the worker, and the servers with the container: their databases are made for that, and the store is the truth.
# FEDROUNDS_STORE is needed at the first start only; afterwards the folder knows its store.
set -eu
fedrounds up --dir /hub ${FEDROUNDS_STORE:+--store "$FEDROUNDS_STORE"}
PREFECT_API_URL=$(python -c 'import json; print(json.load(open("/hub/hub.json"))["prefect_url"])')/api
export PREFECT_API_URL
exec prefect worker start --pool hub --type process
