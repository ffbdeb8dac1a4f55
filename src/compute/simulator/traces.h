// Recorded arrivals, read from files of strangers: nothing in them is trusted.
//
// Formats, told apart by the first line:
//   Aegaeon  "Request Time,Model Name,Input Length,Output Length"; HH:MM:SS.mmm from the start
//   Azure    "TIMESTAMP,ContextTokens,GeneratedTokens"; date and time, no models
//   lengths  "input,output"; no times: for LengthsOf only
//   JSONL    one object a line, what the real pool records: {"arrival_s": 12.5, "model": "qwen3:0.6b",
//            "prompt_tokens": 256, "output_tokens": 64, "account": "a1", "class": "interactive"}; account and
//            class ("interactive", "normal", "batch") may be missing; a request that gave no token counts 1.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "compute/simulator/simulator.h"

namespace tidepool::compute {

struct TraceLimits {
  size_t max_bytes = size_t{256} << 20;
  size_t max_requests = 5'000'000;
  size_t max_models = 10'000;    // and accounts
  int32_t max_tokens = 1 << 20;  // of one prompt, of one output
};

struct Trace {
  std::vector<std::string> models;    // SimRequest::model indexes these; empty: the format has none
  std::vector<std::string> accounts;  // paths; SimRequest::account n is accounts[n - 1]
  std::vector<SimRequest> requests;   // ascending
  bool timed = true;
  // From a name like synth-70-0.1-1.0-1.0.csv; 0: not given.
  int32_t nominal_models = 0;
  double nominal_rate = 0;  // requests/s of each model

  double span_s() const;
};

// `name`: of the file, for nominal values and errors; may be empty.
Result<Trace> ReadTrace(std::string_view text, std::string_view name, const TraceLimits& limits = {});

// Prompt and output tokens that occur together; drawn from with equal chance.
using Lengths = std::vector<std::pair<int32_t, int32_t>>;
Lengths LengthsOf(const Trace& trace);
const Lengths& ShippedLengths();  // of the 32 Aegaeon workloads in bench/workloads: ShareGPT

}  // namespace tidepool::compute
