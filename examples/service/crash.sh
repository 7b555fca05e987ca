#!/usr/bin/env bash
#
# Orders, while the service and the worker are killed with SIGKILL again and again; then counts orders and receipts.
# On SQLite, or on the PostgreSQL that DATABASE_URL names. ROUNDS says how often something is killed.

set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

rounds=${ROUNDS:-20}
dir=$(mktemp -d)
export OUTBOX=$dir/outbox DATABASE_URL=${DATABASE_URL:-$dir/service.db} LISTEN=127.0.0.1:8123 LEASE_SECONDS=2 MAIL_DELAY_MS=20
cargo build --quiet -p diesel-deferred-service
bin=$(cargo metadata --format-version 1 --no-deps | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/debug

declare -A pid
start() {
  "$bin/$1" >>"$dir/$1.log" 2>&1 &
  pid[$1]=$!
}
# Reaps it too: its port is free only then. The shell's "Killed" line is nobody's news.
kill_outright() { { kill -9 "${pid[$1]}" && wait "${pid[$1]}"; } 2>/dev/null || true; }
# wait_for CMD…: until it succeeds, 30 seconds at most.
wait_for() {
  for ((tenths = 0; tenths < 300; tenths++)); do
    "$@" >/dev/null && return
    sleep 0.1
  done
  tail -n 5 "$dir"/*.log >&2
  return 1
}
answers() { curl --silent --fail --max-time 5 "http://$LISTEN/orders" "$@"; }
orders() { answers | tr -dc 0-9; }
receipts() { find "$dir/receipts" -name '*.eml' | wc -l; }
all_sent() { (($(receipts) >= ordered)); }
clean_up() {
  kill $customers 2>/dev/null || true
  kill_outright service
  kill_outright worker
  rm -rf -- "$dir"
}
customers=
trap clean_up EXIT

start service
start worker
wait_for answers
before=$(orders)
for _ in 1 2 3; do
  while true; do
    answers -H 'content-type: application/json' -d '{"email": "ada@example.org", "cents": 1250}' >/dev/null || sleep 0.05
  done &
  customers+=" $!"
done

for ((round = 1; round <= rounds; round++)); do
  sleep "0.$((RANDOM % 5 + 1))"
  victim=service
  ((RANDOM % 2)) || victim=worker
  kill_outright "$victim"
  start "$victim"
done

{ kill $customers && wait $customers; } 2>/dev/null || true
wait_for answers
ordered=$(($(orders) - before))
wait_for all_sent
echo "$rounds kills, $ordered orders, $(receipts) receipts"
(($(receipts) == ordered && ordered > 0))
