// Who this node is, and whose: kept with the data directory, and compared with the metadata store
// before anything is written there or touched on the host.
//
// DATA_DIR/node-id has the node's id, DATA_DIR/cluster-id that of the cluster it has joined. A data
// directory of before the second file takes it from the store at its next start.
#include <fcntl.h>
#include <unistd.h>

#include <fstream>

#include "nbd/attach/holders.h"
#include "volumed/base/log.h"
#include "volumed/volume/hosted.h"

namespace cvol::volume {
namespace {

std::string read_small_file(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  std::getline(file, text);
  return text;
}

Status write_small_file(const std::string& path, const std::string& line) {
  const std::string fresh = path + ".new";
  const int file = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return status_from_errno(errno, "create " + fresh);
  const std::string text = line + "\n";
  const bool written =
      ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
      ::fsync(file) == 0;
  const int error = errno;
  ::close(file);
  if (!written) return status_from_errno(error, "write " + fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0)
    return status_from_errno(errno, "rename " + fresh);
  return Status::ok();
}

}  // namespace

// `known`: the cluster that this data directory belongs to; empty: none yet.
Status VolumeManager::check_cluster(const std::string& known) {
  if (known.empty()) return Status::ok();
  auto cluster = catalog_.load_cluster();
  const std::string where =
      "the metadata store " + options_.metadata + ", cluster '" + options_.cluster + "',";
  const std::string ways =
      ". Nothing was changed. Start volumed with the --metadata and --cluster "
      "of before, put the store back, or use another --data-dir";
  if (cluster.code() == Code::kNotFound)
    return Status(Code::kFailedPrecondition, where + " is empty, and " + options_.data_dir +
                                                 " belongs to the cluster with id " + known + ways);
  if (!cluster) return cluster.status();
  if (cluster->id() != known)
    return Status(Code::kFailedPrecondition, where + " has the id " + cluster->id() + ", and " +
                                                 options_.data_dir +
                                                 " belongs to the cluster with id " + known + ways);
  return Status::ok();
}

Status VolumeManager::check_not_removed(const std::string& id) {
  auto removed = store_->get(catalog_.keys().removed_node(id));
  if (!removed) return removed.status();
  if (!*removed) return Status::ok();
  return Status(
      Code::kFailedPrecondition,
      "this node (" + id +
          ") was removed from the cluster ('cvol node rm'), and its "
          "copies are no part of any volume any more. Start volumed with an empty --data-dir "
          "to join as a new node");
}

Status VolumeManager::open_node() {
  const std::string path = options_.data_dir + "/node-id";
  const std::string cluster_path = options_.data_dir + "/cluster-id";
  std::string id = read_small_file(path);
  const std::string known_cluster = read_small_file(cluster_path);
  CVOL_TRY(check_cluster(known_cluster));
  if (!id.empty()) {
    CVOL_TRY(Uuid::parse(id).status().with_context(path + " is damaged"));
    CVOL_TRY(check_not_removed(id));
    if (options_.cluster_mode) CVOL_TRY(check_alone(id));
  } else {
    // The id first: a node that ends before it is registered is the same one at its next start. A
    // name that a record has already belongs to that record's data directory.
    Random random = Random::from_system();
    id = Uuid::make(random).to_string();
    // A refused start leaves no id behind.
    CVOL_TRY(catalog_.check_name_is_free(id, options_.node_name));
    if (options_.cluster_mode) CVOL_TRY(check_times(id));
    CVOL_TRY(write_small_file(path, id));
  }
  if (options_.cluster_mode) CVOL_TRY(check_times(id));
  auto node = catalog_.register_node(id, options_.node_name, options_.boot_id);
  if (!node) return node.status();
  node_.id = node->id();
  node_.name = node->name();
  if (known_cluster.empty()) {
    auto cluster = catalog_.load_cluster();
    if (!cluster) return cluster.status();
    CVOL_TRY(write_small_file(cluster_path, cluster->id()));
  }
  if (Status kept = events_.keep_in(options_.data_dir, node_.name); !kept)
    log::warning("volume", "events are kept in memory only", {{"error", kept.message()}});
  return attach::claim_run_dir(options_.run_dir, node_.id, options_.data_dir);
}

}  // namespace cvol::volume
