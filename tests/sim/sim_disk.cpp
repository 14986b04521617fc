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

void SimDisk::new_node() {
  node_ = std::make_unique<io::SimReactor>(world_);
}

bool SimDisk::format() {
  node_->run(do_format(node_.get(), format_, store::memory_table_opener(table_), &failure_));
  return failure_.is_ok();
}

bool SimDisk::open() {
  node_->run(
      do_open(node_.get(), options_, store::memory_table_opener(table_), &engine_, &failure_));
  return failure_.is_ok();
}

void SimDisk::close() {
  node_->run(do_close(engine_.get()));
  engine_.reset();
}

void SimDisk::load(const std::map<std::string, io::SimImage>& files,
                   std::map<std::string, std::string, std::less<>> table) {
  world_.files.clear();
  for (const auto& [path, image] : files) {
    auto file = std::make_shared<io::SimFile>();
    file->reset(image);
    world_.files[path] = file;
  }
  table_ = std::make_shared<store::MemoryTableState>();
  table_->content = std::move(table);
  table_->exists = true;
}

void SimDisk::crash(const Keep& keep) {
  std::map<std::string, io::SimImage> images;
  for (auto& [path, file] : world_.files) images[path] = file->crash_image(keep);
  auto survivor = std::make_shared<store::MemoryTableState>();
  survivor->content = table_->content;
  survivor->exists = table_->exists;
  table_->dead = true;
  node_->die();
  world_.run_until([this] { return node_->done(); });  // everything unwinds with errors
  if (engine_ != nullptr) close();
  table_ = survivor;
  new_node();
  for (auto& [path, image] : images) {
    auto file = std::make_shared<io::SimFile>();
    file->reset(std::move(image));
    world_.files[path] = file;
  }
}

}  // namespace cvol::sim
