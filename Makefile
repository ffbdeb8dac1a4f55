# A thin front of scripts/: each target is one script, and every script says at its head what it does.
.PHONY: help up down build test sanitize bench bench-pool bench-simulator soak soak-hour fuzz format clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

up:              ## set up, build, pull a small model, serve in the background, show a first answer
	@scripts/up

down:            ## stop what `make up` started
	@scripts/down

build:           ## set up and build the binary (build/tidepool)
	@scripts/setup && scripts/build

test:            ## set up for tests, build everything, run all tests
	@scripts/test

sanitize:        ## engine and gateway tests under address, undefined and thread sanitizers
	@scripts/sanitize

bench:           ## speed and accuracy against llama.cpp and other peers, in the same run
	@scripts/bench

bench-pool:      ## many models in memory for three, against llama.cpp's router (under 3 hours)
	@scripts/bench_pool

bench-simulator: ## the goals of the pool in virtual time, against every baseline (10 minutes)
	@scripts/bench_simulator

soak:            ## usage rows against the device's own count: 200 kills, then 10 minutes of 1,000 streams
	@scripts/soak

soak-hour:       ## the same with an hour of streams
	@SOAK_SECONDS=3600 scripts/soak

fuzz:            ## every fuzz target for FUZZ_SECONDS (600) each
	@scripts/fuzz

format:          ## clang-format over src/
	@scripts/format

clean:           ## remove build/
	rm -rf build
