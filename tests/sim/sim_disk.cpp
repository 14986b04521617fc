#include "tests/sim/sim_disk.h"

namespace cvol::sim {
namespace {

const std::string kPath = "/disk";

Task<void> do_format(io::Reactor* reactor, store::FormatOptions options, store::TableOpener opener,
                     Status* status) {
  Result<Uuid> made = co_await store::format_disk_with(*reactor, kPath, options, opener);
  *status = made.status();
}

Task<void> do_open(io::Reactor* reactor, store::EngineOptions options, store::TableOpener opener,
                   std::unique_ptr<store::DiskEngine>* engine, Status* status) {
  Result<std::unique_ptr<store::DiskEngine>> opened =
      co_await store::open_disk_with(*reactor, kPath, options, opener);
  *status = opened.status();
  if (opened) *engine = std::move(*opened);
}

Task<void> do_close(store::DiskEngine* engine) {
  co_await engine->close();
}

}  // namespace

SimDisk::SimDisk(io::SimWorld& world, store::FormatOptions format, store::EngineOptions options)
    : world_(world), format_(format), options_(options) {
  new_node();
}

SimDisk::~SimDisk() {
  if (engine_ != nullptr) close();
}

SimDisk::States SimDisk::new_states() {
  return {std::make_shared<store::MemoryTableState>(), std::make_shared<store::MemoryTableState>()};
}

store::TableOpener SimDisk::opener() const {
  return opener_ ? opener_ : store::memory_table_opener(tables_[0], tables_[1]);
}

void SimDisk::new_node() {
  node_ = std::make_unique<io::SimReactor>(world_);
}

bool SimDisk::format() {
  node_->run(do_format(node_.get(), format_, opener(), &failure_));
  return failure_.is_ok();
}

bool SimDisk::open() {
  node_->run(do_open(node_.get(), options_, opener(), &engine_, &failure_));
  return failure_.is_ok();
}

void SimDisk::close() {
  node_->run(do_close(engine_.get()));
  engine_.reset();
}

void SimDisk::load(const std::map<std::string, io::SimImage>& files, TableContent table,
                   TableContent table2) {
  world_.files.clear();
  for (const auto& [path, image] : files) {
    auto file = std::make_shared<io::SimFile>();
    file->reset(image);
    world_.files[path] = file;
  }
  tables_ = new_states();
  tables_[0]->content = std::move(table);
  tables_[1]->content = std::move(table2);
  tables_[0]->exists = tables_[1]->exists = true;
}

void SimDisk::crash(const Keep& keep) {
  std::map<std::string, io::SimImage> images;
  for (auto& [path, file] : world_.files) images[path] = file->crash_image(keep);
  const States survivors = new_states();
  for (std::size_t i = 0; i < tables_.size(); ++i) {
    survivors[i]->content = tables_[i]->content;
    survivors[i]->exists = tables_[i]->exists;
    tables_[i]->dead = true;
    tables_[i]->before_commit = nullptr;
  }
  node_->die();
  world_.run_until([this] { return node_->done(); });  // everything unwinds with errors
  if (engine_ != nullptr) close();
  tables_ = survivors;
  new_node();
  for (auto& [path, image] : images) {
    auto file = std::make_shared<io::SimFile>();
    file->reset(std::move(image));
    world_.files[path] = file;
  }
}

}  // namespace cvol::sim
