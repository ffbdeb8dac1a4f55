#include "platform/ledger/price_book.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "base/check.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxModels = 10'000;
constexpr int64_t kMaxTiers = 16;
constexpr int64_t kMaxDiscounts = 100'000;
constexpr int64_t kMaxTokens = int64_t{1} << 31;
constexpr Money kMaxPrice{Int128{100'000} * kNanosPerUnit};
constexpr Money kMaxMinimumCharge{Int128{1'000'000} * kNanosPerUnit};

tl::unexpected<Error> BadBook(const std::string& field, const std::string& why) {
  return Fail(ErrorKind::kInvalid, "bad_price_book", fmt::format("{}: {}", field, why), field);
}

Status CheckFields(const Json& object, const std::string& where,
                   std::initializer_list<std::string_view> known) {
  if (!object.is_object()) return BadBook(where.empty() ? "body" : where, "must be an object");
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return BadBook((where.empty() ? "" : where + ".") + name.substr(0, 60),
                     fmt::format("unknown field; known are {}", fmt::join(known, ", ")));
    }
  }
  return {};
}

Result<std::string> Text(const Json& object, const char* name, const std::string& where, size_t most) {
  const auto it = object.find(name);
  const std::string field = (where.empty() ? "" : where + ".") + name;
  if (it == object.end() || !it->is_string()) return BadBook(field, "must be a string");
  const auto& text = it->get_ref<const std::string&>();
  if (text.empty() || text.size() > most) return BadBook(field, fmt::format("must have 1 to {} bytes", most));
  return text;
}

Result<Money> Price(const Json& object, const char* name, const std::string& where, Money most) {
  const std::string field = where + "." + name;
  const auto it = object.find(name);
  if (it == object.end() || !it->is_string())
    return BadBook(field, "must be a decimal string such as \"2.50\" (numbers would round)");
  const auto price = Money::Parse(it->get_ref<const std::string&>());
  if (!price) return BadBook(field, price.error().message);
  if (*price < Money{} || *price > most)
    return BadBook(field, fmt::format("{} is not within 0 and {}", price->ToString(), most.ToString()));
  return *price;
}

Result<int64_t> Factor(const Json& object, const char* name, const std::string& where, int64_t most) {
  const std::string field = where + "." + name;
  const auto it = object.find(name);
  if (it == object.end() || !it->is_string())
    return BadBook(field, "must be a decimal string such as \"0.5\"");
  const auto factor = ParseFactor(it->get_ref<const std::string&>());
  if (!factor) return BadBook(field, factor.error().message);
  if (*factor > most) return BadBook(field, fmt::format("must be at most {}", FactorText(most)));
  return *factor;
}

Result<const Json*> List(const Json& object, const char* name, const std::string& where, int64_t least,
                         int64_t most) {
  const std::string field = (where.empty() ? "" : where + ".") + name;
  const auto it = object.find(name);
  if (it == object.end() || !it->is_array() || std::ssize(*it) < least || std::ssize(*it) > most)
    return BadBook(field, fmt::format("must be a list of {} to {}", least, most));
  return &*it;
}

Result<PriceTier> ParseTier(const Json& json, const std::string& where, int64_t longer_than, bool last) {
  TP_TRY(CheckFields(json, where, {"up_to", "input", "cached_input", "output", "reasoning_output"}));
  PriceTier tier;
  const auto up_to = json.find("up_to");
  const bool bounded = up_to != json.end() && !up_to->is_null();
  if (bounded) {
    if (!up_to->is_number_integer() || *up_to <= longer_than || *up_to > kMaxTokens)
      return BadBook(where + ".up_to", fmt::format("must be a whole number above {}", longer_than));
    tier.up_to = up_to->get<int64_t>();
  } else if (!last) {
    return BadBook(where + ".up_to", "only the last tier may have no end");
  }
  if (last && bounded)
    return BadBook(where + ".up_to", "the last tier must have no end, so that every length has a price");
  TP_ASSIGN(tier.input, Price(json, "input", where, kMaxPrice));
  TP_ASSIGN(tier.output, Price(json, "output", where, kMaxPrice));
  tier.cached_input = tier.input;
  tier.reasoning_output = tier.output;
  if (json.contains("cached_input")) {
    TP_ASSIGN(tier.cached_input, Price(json, "cached_input", where, kMaxPrice));
  }
  if (json.contains("reasoning_output")) {
    TP_ASSIGN(tier.reasoning_output, Price(json, "reasoning_output", where, kMaxPrice));
  }
  return tier;
}

Result<ModelPrice> ParseModelPrice(const Json& json, const std::string& where) {
  TP_TRY(CheckFields(json, where, {"model", "tiers", "embedding", "batch_factor", "minimum_charge"}));
  ModelPrice price;
  if (json.contains("embedding")) {
    TP_ASSIGN(price.embedding, Price(json, "embedding", where, kMaxPrice));
  }
  if (json.contains("tiers") || !price.embedding) {
    TP_ASSIGN(const Json* tiers, List(json, "tiers", where, 1, kMaxTiers));
    for (size_t i = 0; i < tiers->size(); ++i) {
      const int64_t longer_than = price.tiers.empty() ? 0 : price.tiers.back().up_to;
      TP_ASSIGN(PriceTier tier, ParseTier((*tiers)[i], fmt::format("{}.tiers[{}]", where, i), longer_than,
                                          i + 1 == tiers->size()));
      price.tiers.push_back(tier);
    }
  }
  if (json.contains("batch_factor")) {
    TP_ASSIGN(price.batch_factor, Factor(json, "batch_factor", where, kMaxFactor));
  }
  if (json.contains("minimum_charge")) {
    TP_ASSIGN(price.minimum_charge, Price(json, "minimum_charge", where, kMaxMinimumCharge));
  }
  return price;
}

Result<int64_t> TimeField(const Json& json, const char* name, int64_t fallback) {
  const auto it = json.find(name);
  if (it == json.end() || it->is_null()) return fallback;
  if (!it->is_string()) return BadBook(name, "must be a time such as \"2026-12-01T00:00:00Z\"");
  return ParseTimeMs(it->get_ref<const std::string&>(), name);
}

const PriceTier& TierFor(const ModelPrice& price, int64_t prompt_tokens) {
  for (const PriceTier& tier : price.tiers) {
    if (tier.up_to == 0 || prompt_tokens <= tier.up_to) return tier;
  }
  return price.tiers.back();
}

}  // namespace

const ModelPrice* PriceBook::Find(std::string_view model) const {
  auto it = models.find(model);
  if (it == models.end()) it = models.find(std::string_view("*"));
  return it == models.end() ? nullptr : &it->second;
}

Result<PriceBook> ParsePriceBook(const Json& json) {
  TP_TRY(CheckFields(
      json, "",
      {"version", "currency", "valid_from", "valid_to", "note", "charge_failed", "models", "discounts"}));
  PriceBook book;
  TP_ASSIGN(book.currency, Text(json, "currency", "", 3));
  if (!IsCurrency(book.currency))
    return BadBook("currency", "must be a code of three capitals such as \"EUR\" (ISO 4217)");
  TP_ASSIGN(book.valid_from_ms, TimeField(json, "valid_from", 0));
  TP_ASSIGN(book.valid_to_ms, TimeField(json, "valid_to", INT64_MAX));
  if (book.valid_to_ms <= book.valid_from_ms) return BadBook("valid_to", "must be later than valid_from");
  if (json.contains("note") && !json["note"].is_null()) {
    TP_ASSIGN(book.note, Text(json, "note", "", 1000));
  }
  if (const auto it = json.find("charge_failed"); it != json.end()) {
    if (!it->is_boolean()) return BadBook("charge_failed", "must be true or false");
    book.charge_failed = it->get<bool>();
  }
  TP_ASSIGN(const Json* models, List(json, "models", "", 0, kMaxModels));
  for (size_t i = 0; i < models->size(); ++i) {
    const std::string where = fmt::format("models[{}]", i);
    TP_ASSIGN(ModelPrice price, ParseModelPrice((*models)[i], where));
    TP_ASSIGN(std::string name, Text((*models)[i], "model", where, 512));
    if (!book.models.emplace(name, std::move(price)).second)
      return BadBook(where + ".model", fmt::format("\"{}\" is there twice", name));
  }
  if (json.contains("discounts")) {
    TP_ASSIGN(const Json* discounts, List(json, "discounts", "", 0, kMaxDiscounts));
    for (size_t i = 0; i < discounts->size(); ++i) {
      const std::string where = fmt::format("discounts[{}]", i);
      TP_TRY(CheckFields((*discounts)[i], where, {"organisation", "factor"}));
      TP_ASSIGN(std::string organisation, Text((*discounts)[i], "organisation", where, 200));
      TP_ASSIGN(const int64_t factor, Factor((*discounts)[i], "factor", where, kFactorOne));
      if (!book.discounts.emplace(organisation, factor).second)
        return BadBook(where + ".organisation", fmt::format("\"{}\" is there twice", organisation));
    }
  }
  return book;
}

Json PriceBookJson(const PriceBook& book) {
  Json json;
  json["version"] = book.version;
  json["currency"] = book.currency;
  json["valid_from"] = TimeText(book.valid_from_ms);
  json["valid_to"] = book.valid_to_ms == INT64_MAX ? Json(nullptr) : Json(TimeText(book.valid_to_ms));
  if (!book.note.empty()) json["note"] = book.note;
  json["charge_failed"] = book.charge_failed;
  json["models"] = Json::array();
  for (const auto& [name, price] : book.models) {
    Json entry;
    entry["model"] = name;
    if (!price.tiers.empty()) entry["tiers"] = Json::array();
    for (const PriceTier& tier : price.tiers) {
      Json t;
      if (tier.up_to > 0) t["up_to"] = tier.up_to;
      t["input"] = tier.input.ToString();
      t["cached_input"] = tier.cached_input.ToString();
      t["output"] = tier.output.ToString();
      t["reasoning_output"] = tier.reasoning_output.ToString();
      entry["tiers"].push_back(std::move(t));
    }
    if (price.embedding) entry["embedding"] = price.embedding->ToString();
    entry["batch_factor"] = FactorText(price.batch_factor);
    entry["minimum_charge"] = price.minimum_charge.ToString();
    json["models"].push_back(std::move(entry));
  }
  json["discounts"] = Json::array();
  for (const auto& [organisation, factor] : book.discounts)
    json["discounts"].push_back({{"organisation", organisation}, {"factor", FactorText(factor)}});
  return json;
}

PricedAmount PriceOf(const PriceBook& book, const PriceRequest& request) {
  const BillableTokens& tokens = request.tokens;
  const ModelPrice* price = book.Find(request.model);
  // What is paid for, after what the quota covers. Tokens beyond the bound cannot be computed by any model.
  std::array<int64_t, 4> paid{tokens.prompt - tokens.cached, tokens.cached, tokens.output - tokens.reasoning,
                              tokens.reasoning};
  int64_t covered = request.free_tokens;
  int64_t left = 0;
  for (int64_t& count : paid) {
    count = std::clamp<int64_t>(count, 0, kMaxTokens);
    const int64_t off = std::min(covered, count);
    count -= off;
    covered -= off;
    left += count;
  }
  const bool priced = price != nullptr &&
                      (request.embeds ? price->embedding || !price->tiers.empty() : !price->tiers.empty());
  if (!priced) return {{}, Billing::kUnpriced};
  const bool failed = request.status == UsageStatus::kError || request.status == UsageStatus::kInterrupted;
  if (failed && !book.charge_failed) return {{}, Billing::kWaived};
  if (left == 0 && request.free_tokens > 0) return {{}, Billing::kFree};
  Int128 sum = 0;
  if (request.embeds && price->embedding) {
    sum = price->embedding->nanos * left;
  } else {
    const PriceTier& tier = TierFor(*price, tokens.prompt);
    sum = tier.input.nanos * paid[0] + tier.cached_input.nanos * paid[1] + tier.output.nanos * paid[2] +
          tier.reasoning_output.nanos * paid[3];
  }
  Int128 factor = request.batch ? price->batch_factor : kFactorOne;
  const auto discount = book.discounts.find(request.organisation);
  factor *= discount == book.discounts.end() ? kFactorOne : discount->second;
  Money amount{MulDivHalfEven(sum, factor, Int128{1'000'000} * kFactorOne * kFactorOne)};
  if (left > 0) amount = std::max(amount, price->minimum_charge);
  CHECK(amount.FitsRow());
  return {amount, request.free_tokens > 0 ? Billing::kMixed : Billing::kPaid};
}

PriceBooks::PriceBooks() { books_.emplace(0, std::make_shared<const PriceBook>()); }

std::shared_ptr<const PriceBook> PriceBooks::At(int64_t at_ms) const {
  std::lock_guard lock(mutex_);
  for (auto it = books_.rbegin(); it != books_.rend(); ++it) {
    if (it->second->valid_from_ms <= at_ms && at_ms < it->second->valid_to_ms) return it->second;
  }
  return books_.begin()->second;
}

std::shared_ptr<const PriceBook> PriceBooks::Version(int64_t version) const {
  std::lock_guard lock(mutex_);
  const auto it = books_.find(version);
  return it == books_.end() ? nullptr : it->second;
}

std::vector<std::shared_ptr<const PriceBook>> PriceBooks::After(int64_t version, size_t most) const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const PriceBook>> page;
  for (auto it = books_.upper_bound(std::max<int64_t>(version, 0)); it != books_.end() && page.size() < most;
       ++it)
    page.push_back(it->second);
  return page;
}

std::string PriceBooks::Currency(int64_t at_ms) const {
  const auto in_force = At(at_ms);
  std::lock_guard lock(mutex_);
  if (books_.size() < 2) return "";
  return in_force->version != 0 ? in_force->currency : std::next(books_.begin())->second->currency;
}

bool PriceBooks::HasCurrency(std::string_view currency) const {
  std::lock_guard lock(mutex_);
  // The built-in book stands for none as soon as there is another.
  const auto first = books_.size() < 2 ? books_.begin() : std::next(books_.begin());
  return std::any_of(first, books_.end(),
                     [&](const auto& book) { return book.second->currency == currency; });
}

void PriceBooks::Add(PriceBook book) {
  std::lock_guard lock(mutex_);
  const int64_t version = book.version;
  books_[version] = std::make_shared<const PriceBook>(std::move(book));
}

size_t PriceBooks::size() const {
  std::lock_guard lock(mutex_);
  return books_.size();
}

Result<int64_t> ParseTimeMs(std::string_view text, std::string_view param) {
  const auto bad = [&] {
    return Fail(
        ErrorKind::kInvalid, "bad_time",
        fmt::format("{}: \"{}\" is no time; write 2026-12-01, 2026-12-01T00:00:00Z or seconds since 1970",
                    param, text.substr(0, 40)),
        std::string(param));
  };
  const auto digits = [&](size_t at, size_t count) -> int64_t {
    if (at + count > text.size()) return -1;
    int64_t value = 0;
    for (const char c : text.substr(at, count)) {
      if (c < '0' || c > '9') return -1;
      value = value * 10 + (c - '0');
    }
    return value;
  };
  if (text.empty()) return bad();
  if (text.size() <= 11 && text.find('-') == std::string_view::npos) {
    const int64_t seconds = digits(0, text.size());
    if (seconds < 0) return bad();
    return seconds * 1000;
  }
  const int64_t year = digits(0, 4), month = digits(5, 2), day = digits(8, 2);
  if (year < 1970 || month < 1 || day < 1 || text[4] != '-' || text[7] != '-') return bad();
  const std::chrono::year_month_day date{std::chrono::year(static_cast<int>(year)),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!date.ok()) return bad();
  int64_t ms = std::chrono::sys_days(date).time_since_epoch().count() * int64_t{86'400'000};
  if (text.size() == 10) return ms;
  const int64_t hour = digits(11, 2), minute = digits(14, 2), second = digits(17, 2);
  if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 ||
      (text[10] != 'T' && text[10] != ' ') || text[13] != ':' || text[16] != ':')
    return bad();
  ms += ((hour * 60 + minute) * 60 + second) * 1000;
  std::string_view rest = text.substr(19);
  if (rest.size() >= 4 && rest[0] == '.') {
    const int64_t part = digits(20, 3);
    if (part < 0) return bad();
    ms += part;
    rest = rest.substr(4);
  }
  if (rest != "Z") return bad();
  return ms;
}

std::string TimeText(int64_t unix_ms) {
  using std::chrono::days, std::chrono::floor, std::chrono::milliseconds, std::chrono::sys_time;
  const sys_time<milliseconds> time{milliseconds(unix_ms)};
  const auto day = floor<days>(time);
  const std::chrono::year_month_day date{day};
  const int64_t in_day = (time - day).count();
  std::string text = fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", static_cast<int>(date.year()),
                                 static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                                 in_day / 3'600'000, in_day / 60'000 % 60, in_day / 1000 % 60);
  if (in_day % 1000 != 0) text += fmt::format(".{:03}", in_day % 1000);
  return text + "Z";
}

}  // namespace tidepool::platform
