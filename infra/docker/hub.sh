#!/bin/sh
# The hub in a container: the servers in the background, the worker that runs the flows in front.
# FEDROUNDS_STORE is needed at the first start only; afterwards the folder knows its store.
set -eu
fedrounds up --dir /hub ${FEDROUNDS_STORE:+--store "$FEDROUNDS_STORE"}
trap 'kill "$worker" 2>/dev/null; wait "$worker" || true; fedrounds down --dir /hub' TERM INT
PREFECT_API_URL=$(python -c 'import json; print(json.load(open("/hub/hub.json"))["prefect_url"])')/api
export PREFECT_API_URL
prefect worker start --pool hub --type process &
worker=$!
wait "$worker"
