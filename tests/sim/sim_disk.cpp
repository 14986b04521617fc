#include "tests/sim/sim_disk.h"

namespace cvol::sim {
namespace {

Task<void> do_format(io::Reactor* reactor, std::string path, store::FormatOptions options,
                     store::TableOpener opener, Status* status) {
  Result<Uuid> made = co_await store::format_disk_with(*reactor, path, options, opener);
  *status = made.status();
}

Task<void> do_open(io::Reactor* reactor, std::string path, store::EngineOptions options,
                   store::TableOpener opener, std::unique_ptr<store::DiskEngine>* engine,
                   Status* status) {
  Result<std::unique_ptr<store::DiskEngine>> opened =
      co_await store::open_disk_with(*reactor, path, options, opener);
  *status = opened.status();
  if (opened) *engine = std::move(*opened);
}

Task<void> do_close(store::DiskEngine* engine) {
  co_await engine->close();
}

}  // namespace

SimTables new_tables() {
  return {std::make_shared<store::MemoryTableState>(), std::make_shared<store::MemoryTableState>()};
}

DiskRemains lose_power(io::SimWorld& world, const std::string& path, const SimTables& tables,
                       const KeepSectors& keep) {
  DiskRemains remains;
  for (auto& [name, file] : world.files) {
    if (name.starts_with(path + "/")) remains.files[name] = file->crash_image(keep);
  }
  remains.tables = new_tables();
  for (std::size_t i = 0; i < tables.size(); ++i) {
    remains.tables[i]->content = tables[i]->content;
    remains.tables[i]->exists = tables[i]->exists;
    tables[i]->dead = true;
    tables[i]->before_commit = nullptr;
  }
  return remains;
}

void put_back(io::SimWorld& world, DiskRemains remains, SimTables& tables) {
  tables = remains.tables;
  for (auto& [name, image] : remains.files) {
    auto file = std::make_shared<io::SimFile>();
    file->reset(std::move(image));
    world.files[name] = file;
  }
}

SimDisk::SimDisk(io::SimWorld& world, store::FormatOptions format, store::EngineOptions options,
                 std::string path)
    : world_(world), format_(format), options_(options), path_(std::move(path)) {
  new_node();
}

SimDisk::~SimDisk() {
  if (engine_ != nullptr) close();
}

store::TableOpener SimDisk::opener() const {
  return opener_ ? opener_ : store::memory_table_opener(tables_[0], tables_[1]);
}

void SimDisk::new_node() {
  node_ = std::make_unique<io::SimReactor>(world_);
}

bool SimDisk::format() {
  node_->run(do_format(node_.get(), path_, format_, opener(), &failure_));
  return failure_.is_ok();
}

bool SimDisk::open() {
  node_->run(do_open(node_.get(), path_, options_, opener(), &engine_, &failure_));
  return failure_.is_ok();
}

void SimDisk::close() {
  node_->run(do_close(engine_.get()));
  engine_.reset();
}

void SimDisk::load(const std::map<std::string, io::SimImage>& files, TableContent table,
                   TableContent table2) {
  std::erase_if(world_.files, [&](const auto& e) { return e.first.starts_with(path_ + "/"); });
  for (const auto& [path, image] : files) {
    auto file = std::make_shared<io::SimFile>();
    file->reset(image);
    world_.files[path] = file;
  }
  tables_ = new_tables();
  tables_[0]->content = std::move(table);
  tables_[1]->content = std::move(table2);
  tables_[0]->exists = tables_[1]->exists = true;
}

void SimDisk::crash(const Keep& keep) {
  DiskRemains remains = lose_power(world_, path_, tables_, keep);
  node_->die();
  world_.run_until([this] { return node_->done(); });  // everything unwinds with errors
  if (engine_ != nullptr) close();
  new_node();
  put_back(world_, std::move(remains), tables_);
}

}  // namespace cvol::sim
