// An engine, an Inference and the whole ledger over a simulated device that counts for itself. For the test
// and the bench of metering.
#pragma once

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/ids.h"
#include "compute/engine/engine.h"
#include "compute/memory/ledger.h"
#include "platform/catalog/catalog.h"
#include "platform/inference/inference.h"
#include "platform/ledger/accounting.h"
#include "platform/store/database.h"

namespace tidepool::platform {

class MeteringRig {
 public:
  // kNullStore: rows end in the journal. kWhole: `accounting` is there.
  enum class Kind : uint8_t { kUnmetered, kNullStore, kWhole };
  struct Options {
    chips::SimulatedDeviceOptions device = {};
    Kind kind = Kind::kWhole;
    bool speculation = false;
    std::vector<std::string> models = {"scripted"};
    AccountingOptions accounting = {};
  };
  explicit MeteringRig(Options options)
      : folder_(std::filesystem::temp_directory_path() / RandomId("metering-")) {
    std::filesystem::create_directories(folder_);
    tally_ = (folder_ / "tally").string();
    options.device.tally_file = tally_;
    simulated_ = chips::MakeSimulatedDevice(options.device);
    CatalogOptions catalog_options;
    catalog_options.home = folder_;
    auto catalog = Catalog::Open(catalog_options);
    CHECK(catalog.has_value());
    catalog_ = std::move(*catalog);
    InferenceOptions inference_options;
    if (options.kind == Kind::kWhole) {
      store::DatabaseOptions database_options;
      database_options.file = folder_ / "tidepool.db";
      auto database = store::Database::Open(database_options, metrics);
      CHECK(database.has_value());
      database_ = std::move(*database);
      const store::MigrationList lists[] = {LedgerMigrations(), DeploymentBook::Migrations()};
      CHECK(database_->Migrate(lists).has_value());
      options.accounting.folder = folder_ / "ledger";
      auto opened = Accounting::Open(*database_, clock_, wall_, metrics, options.accounting);
      CHECK(opened.has_value());
      accounting = std::move(*opened);
      inference_options.ledger = &accounting->ledger();
      auto book = DeploymentBook::Open(*database_, nullptr, wall_, metrics);
      CHECK(book.has_value());
      deployments = std::move(*book);
      inference_options.deployments = deployments.get();
    } else if (options.kind == Kind::kNullStore) {
      auto files = OpenJournalFolder(folder_ / "ledger");
      CHECK(files.has_value());
      JournalRemains none;
      auto journal = Journal::Open(std::move(*files), {}, none);
      CHECK(journal.has_value());
      limiter_ = std::make_unique<Limiter>(clock_, wall_, books_, QuotaDefaults{});
      null_store_ = std::make_unique<UsageLedger>(UsageLedger::Parts{.journal = std::move(*journal),
                                                                     .sink = nullptr,
                                                                     .clock = &clock_,
                                                                     .wall = &wall_,
                                                                     .books = &books_,
                                                                     .limiter = limiter_.get(),
                                                                     .metrics = &metrics},
                                                  UsageLedgerOptions{});
      inference_options.ledger = null_store_.get();
    }
    // A rejected draft is computed by the device and owed by nobody: with drafts its count is not the
    // meter's.
    compute::EngineOptions engine_options;
    engine_options.speculation = options.speculation;
    engine_options.trace_records = 4096;
    inference_options.traced = true;
    engine = compute::Engine::Start(*simulated_, memory_, clock_, metrics, engine_options);
    inference =
        Inference::Create(*catalog_, *engine, *simulated_, memory_, clock_, metrics, inference_options);
    for (const std::string& model : options.models)
      CHECK(inference->AddScripted(*simulated_, model, 8192).has_value());
  }
  ~MeteringRig() {
    inference.reset();
    engine.reset();
    accounting.reset();
    null_store_.reset();
    deployments.reset();
    database_.reset();
    std::filesystem::remove_all(folder_);
  }

  // What the device counted under `tag`.
  chips::TallyEntry Tally(int32_t tag) const {
    chips::TallyEntry entry;
    std::ifstream file(tally_, std::ios::binary);
    file.seekg(static_cast<std::streamoff>(tag) * static_cast<std::streamoff>(sizeof entry));
    file.read(reinterpret_cast<char*>(&entry), sizeof entry);
    return entry;
  }

  MetricsRegistry metrics;
  std::unique_ptr<Accounting> accounting;
  std::unique_ptr<DeploymentBook> deployments;
  std::unique_ptr<compute::Engine> engine;
  std::unique_ptr<Inference> inference;
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
  std::string tally_;
  SteadyClock clock_;
  SystemWallClock wall_;
  compute::Ledger memory_{256u << 20};
  std::unique_ptr<chips::SimulatedDevice> simulated_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<store::Database> database_;
  PriceBooks books_;
  std::unique_ptr<Limiter> limiter_;
  std::unique_ptr<UsageLedger> null_store_;
};

}  // namespace tidepool::platform
