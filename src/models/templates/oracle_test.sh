#!/bin/sh
# Runs tools/template_oracle.py with the Python of the test data: oracle_test.sh RENDERER SOURCE_FOLDER
data=${TIDEPOOL_TEST_DATA:-$2/build/test-data}
if [ ! -x "$data/venv/bin/python" ]; then
  echo "skipped: no $data/venv/bin/python; scripts/test_data makes it"
  exit 77
fi
exec "$data/venv/bin/python" "$2/tools/template_oracle.py" "$1" \
  --templates "$data/llama.cpp/models/templates" --every 7 --random 3000
