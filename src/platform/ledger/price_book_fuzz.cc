// Any text as a price book: refused, or a book that prices every request within a row and survives a round
// trip.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "platform/ledger/price_book.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::platform;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto json = nlohmann::ordered_json::parse(text, nullptr, false);
  if (json.is_discarded()) return 0;
  const auto book = ParsePriceBook(json);
  if (!book) return 0;
  const auto written = PriceBookJson(*book);
  const auto again = ParsePriceBook(written);
  CHECK(again && PriceBookJson(*again) == written);
  for (const auto& [model, price] : book->models) {
    for (const bool embeds : {false, true}) {
      const auto priced =
          PriceOf(*book, {.organisation = "o",
                          .model = model,
                          .embeds = embeds,
                          .batch = true,
                          .tokens = {INT64_MAX / 2, INT64_MAX / 4, INT64_MAX, INT64_MAX / 2}});
      CHECK(priced.amount >= Money{} && priced.amount.FitsRow());
    }
  }
  return 0;
}
