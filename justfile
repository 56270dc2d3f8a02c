# `just` lists these; each is one line that CI, or you, can run by hand.

_list:
    @just --list --unsorted

# The main job on a laptop: two nodes, an S3 store, and a table of what each request did
demo *args:
    cargo run --release -- demo {{args}}

# Every check and test (lint, unit and integration choose)
test *steps:
    scripts/test {{steps}}

# Format check, clippy with warnings denied, cargo-deny, hadolint
lint:
    scripts/test lint

# Format the sources
fmt:
    cargo fmt --all

# hopfall on a configuration file
run config="conf/minimal.yaml":
    cargo run --release -- run -c {{config}}
