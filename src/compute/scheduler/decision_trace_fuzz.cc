// Any bytes as a trace: read, written, read again, the same.
#include <sstream>

#include "base/check.h"
#include "compute/scheduler/trace.h"

using namespace tidepool::compute;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::istringstream in(std::string(reinterpret_cast<const char*>(data), size));
  const auto trace = ReadTrace(in);
  if (!trace) return 0;
  (void)ArrivalsOf(*trace);
  std::stringstream first;
  WriteTrace(*trace, first);
  const auto again = ReadTrace(first);
  CHECK(again.has_value());
  CHECK(again->records.size() == trace->records.size() && again->complete == trace->complete);
  return 0;
}
