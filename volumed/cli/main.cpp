// cvol: the command line. Nouns, then verbs; everything goes through the API.
#include <CLI/CLI.hpp>
#include <iostream>

#include "volumed/api/address.h"
#include "volumed/cli/commands.h"
#include "volumed/cli/completion.h"
#include "volumed/cli/suggest.h"

namespace cvol::cli {
namespace {

constexpr const char* kFooter =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 volumed cannot be reached,\n"
    "5 refused in the present state (in use, exists already, busy).\n"
    "\n"
    "volumed is looked for at --api, else at $CVOL_API, else at unix:/run/cvol/api.sock.";

struct Chosen {
  Command run = nullptr;
};

CLI::App* add_command(CLI::App& parent, const char* name, const char* help, Command run,
                      Chosen& chosen) {
  CLI::App* command = parent.add_subcommand(name, help);
  command->callback([&chosen, run] { chosen.run = run; });
  return command;
}

void add_volume_commands(CLI::App& app, Settings& settings, Chosen& chosen) {
  CLI::App* volume = app.add_subcommand("volume", "Volumes: create, use, remove");
  volume->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, Command run) {
    return add_command(*volume, name, help, run, chosen);
  };
  const auto with_name = [&](CLI::App* command) {
    command->add_option("NAME", settings.name, "Name of the volume")->required();
    return command;
  };
  CLI::App* create =
      with_name(add("create", "Create a volume; space is taken as it is written", create_volume));
  create->add_option("-s,--size", settings.size, "Size, like 10GiB or 1.5TiB")
      ->default_val("10GiB");
  create->add_option("--fs", settings.fs, "File system made at the first mount: ext4 or xfs")
      ->default_val("ext4");
  // Shown, not set: what is not given must not look as if it were, to `modify` above all.
  create->add_option("--replicas", settings.replicas, "Copies, each on another node")
      ->default_str("1")
      ->check(CLI::Range(1, 8));
  create->add_option("--min-in-sync", settings.min_in_sync,
                     "Copies that must have a write before it is answered");
  create->add_flag("--zone-spread", settings.zone_spread, "Each copy in another zone");
  const auto with_policy = [&](CLI::App* command) {
    command
        ->add_option("--on-full", settings.on_full,
                     "What writes do while the pool is full: wait, error, or default (devices "
                     "wait, NBD clients get an error)")
        ->check(CLI::IsMember({"wait", "error", "default"}));
  };
  with_policy(create);
  create->add_option("-l,--label", settings.labels, "KEY=VALUE; may be given several times")
      ->allow_extra_args(false);
  add("ls", "List volumes", list_volumes);
  with_name(add("inspect", "Show one volume", inspect_volume));
  CLI::App* resize = with_name(add("resize", "Grow a volume and its file system", resize_volume));
  resize->add_option("SIZE", settings.size, "New size, like 20GiB")->required();
  with_name(add("trim", "Give back what a mounted file system does not use", trim_volume));
  with_name(add("attach", "Make a volume a block device of this host", attach_volume));
  with_name(add("force-attach", "Attach a volume that another node still has attached",
                force_attach_volume));
  with_name(add("detach", "Take the block device away", detach_volume));
  with_name(add("explain", "Say who has what, who waits for whom, and what each way out costs",
                explain_volume));
  CLI::App* modify =
      with_name(add("modify", "Change copies and policies of a volume in use", modify_volume));
  modify->add_option("--replicas", settings.replicas, "Copies, each on another node")
      ->check(CLI::Range(1, 8));
  modify->add_option("--min-in-sync", settings.min_in_sync,
                     "Copies that must have a write before it is answered");
  with_policy(modify);
  CLI::App* move =
      with_name(add("move", "Move the primary to a node that holds a copy", move_volume));
  move->add_option("NODE", settings.node, "Name of the node")->required();
  CLI::App* rebuild = with_name(
      add("rebuild-record", "Make a volume's record anew, after the metadata store was restored",
          rebuild_record));
  rebuild->add_flag("--accept-data-loss", settings.accept_data_loss,
                    "Although nodes that may know more are away: what only they have is lost");
  with_name(add("verify", "Compare all copies of a volume while it is used", verify_volume));
  with_name(add("resync", "Watch until all copies are in sync", watch_resync));
  CLI::App* mount = with_name(add("mount", "Mount a volume, and say where", mount_volume));
  CLI::App* unmount = with_name(add("unmount", "Undo a mount", unmount_volume));
  for (CLI::App* command : {mount, unmount}) {
    command->add_option("TARGET", settings.target,
                        "Folder that shows the volume's files; without it, a place of cvol's own");
    command->add_option("--caller", settings.caller,
                        "Who uses it; the volume stays mounted until all have unmounted");
  }
  add("unmount-all", "Undo all mounts of 'cvol volume mount' here, before a shutdown", unmount_all);
  CLI::App* remove = add("rm", "Remove volumes and their data", remove_volumes);
  remove->add_option("NAMES", settings.names, "Names of the volumes")->required();
  remove->add_flag("-f,--force", settings.force, "Also unmount, detach and disconnect first");
}

void add_commands(CLI::App& app, Settings& settings, Chosen& chosen) {
  add_command(app, "status", "Show this node at a glance", show_status, chosen);
  CLI::App* node = app.add_subcommand("node", "Nodes of the cluster");
  node->require_subcommand(1);
  add_command(*node, "ls", "List nodes", list_nodes, chosen);
  const auto with_node = [&](CLI::App* command) {
    command->add_option("NODE", settings.node, "Name of the node")->required();
  };
  with_node(add_command(*node, "cordon", "Place no new copies on a node", cordon_node, chosen));
  with_node(add_command(*node, "uncordon", "Undo cordon and drain", uncordon_node, chosen));
  with_node(
      add_command(*node, "drain", "Move all copies from a node to others", drain_node, chosen));
  with_node(add_command(*node, "rm", "Forget a node that is gone for good", remove_node, chosen));
  CLI::App* successor =
      add_command(*node, "replace", "Let this node take the places of a node that is gone for good",
                  replace_node, chosen);
  successor->add_option("OLD", settings.node, "Name of the node that is gone")->required();
  successor->add_flag("--wait", settings.wait, "Wait until all copies on this node are in sync");
  CLI::App* cluster = app.add_subcommand("cluster", "The cluster as a whole");
  cluster->require_subcommand(1);
  CLI::App* migrate = add_command(*cluster, "migrate", "Move this node's records into etcd",
                                  migrate_cluster, chosen);
  migrate->add_option("--to", settings.to, "etcd:HOST:PORT[,HOST:PORT...]")->required();
  CLI::App* disk = app.add_subcommand("disk", "Disks of the pool");
  disk->require_subcommand(1);
  CLI::App* add = add_command(*disk, "add", "Give an empty folder to the pool", add_disk, chosen);
  add->add_option("PATH", settings.path, "Folder on a local file system")->required();
  add->add_option("--capacity", settings.capacity, "Most to use; default: what is free there");
  add->add_option("--journal-size", settings.journal_size, "Size of the write-ahead journal");
  add->add_flag("-f,--force", settings.force,
                "Although its file system is not fit for a disk, or has another one");
  CLI::App* moving =
      add_command(*disk, "move", "Say where a disk is now that is not open", move_disk, chosen);
  moving->add_option("DISK", settings.name, "Path of the disk, or the first digits of its id")
      ->required();
  moving->add_option("NEWPATH", settings.path, "Folder where it is now")->required();
  moving->add_flag("--accept-data-loss", settings.accept_data_loss,
                   "Take an older copy of it: what was written since is lost");
  add_command(*disk, "ls", "List disks", list_disks, chosen);
  CLI::App* scrub = add_command(*disk, "scrub", "Read and check all of a disk while it is used",
                                scrub_disk, chosen);
  scrub->add_option("DISK", settings.name, "Path of the disk, or the first digits of its id")
      ->required();
  scrub->add_option("--rate", settings.rate, "How fast to read, like 64MiB/s");
  scrub->add_flag("--wait", settings.wait, "Wait for the end; damage is an error");
  scrub->add_flag("--stop", settings.stop, "End the scrub; the next one goes on from there");
  CLI::App* verify =
      add_command(*disk, "verify",
                  "Read and check all of a disk at full speed; takes a failed disk into service",
                  verify_disk, chosen);
  verify->add_option("DISK", settings.name, "Path of the disk, or the first digits of its id")
      ->required();
  verify->add_flag("--accept-damage", settings.accept_damage,
                   "Take a failed disk into service although blocks are damaged");
  verify->add_flag("--wait", settings.wait, "Wait for the end (the default)");
  verify->add_flag("--no-wait", settings.no_wait, "Only begin it");
  CLI::App* leave = add_command(*disk, "rm", "Take a disk out of the pool; its copies go elsewhere",
                                remove_disk, chosen);
  CLI::App* replace =
      add_command(*disk, "replace", "Take a new disk into the pool, and an old one out of it",
                  replace_disk, chosen);
  for (CLI::App* command : {leave, replace}) {
    command->add_option("DISK", settings.name, "Path of the disk, or the first digits of its id")
        ->required();
    command->add_flag("--in-place", settings.in_place,
                      "Let copies be made anew on other disks of this node where no other node can "
                      "take them: until that is done their volumes have one copy fewer");
    command->add_flag("--wait", settings.wait, "Wait until nothing is left on it");
  }
  leave->add_flag("--cancel", settings.cancel, "Keep a disk that is leaving");
  replace->add_option("PATH", settings.path, "Folder on a local file system: the new disk")
      ->required();
  replace->add_option("--capacity", settings.capacity, "Most to use; default: what is free there");
  replace->add_option("--journal-size", settings.journal_size, "Size of the write-ahead journal");
  replace->add_flag("-f,--force", settings.force, "As for 'disk add'");
  add_volume_commands(app, settings, chosen);
  CLI::App* events = add_command(app, "events", "Show what happened lately", show_events, chosen);
  events->add_flag("-f,--follow", settings.follow, "Go on with what happens next");
  events->add_option("--kind", settings.event_kind, "Only events of this kind (volume_attached)");
  events->add_option("--subject", settings.event_subject, "Only events of this volume, disk, node");
  events->add_flag("--here", settings.event_here, "Only those of the node that is asked");
  events->add_option("--since", settings.event_since, "Only those of the last TIME (2h, 3d)");
}

std::vector<std::string> volume_names(const Settings& settings) {
  std::vector<std::string> names;
  auto client = api::ApiClient::open(api::api_address(settings.api));
  if (!client) return names;
  auto volumes = (*client)->list_volumes();
  if (!volumes) return names;
  for (const v1::Volume& volume : volumes->volumes()) names.push_back(volume.name());
  return names;
}

std::vector<std::string> disk_paths(const Settings& settings) {
  std::vector<std::string> paths;
  auto client = api::ApiClient::open(api::api_address(settings.api));
  if (!client) return paths;
  auto disks = (*client)->list_disks();
  if (!disks) return paths;
  for (const v1::Disk& disk : disks->disks()) paths.push_back(disk.path());
  return paths;
}

int fail(const Status& status) {
  std::cerr << "cvol: " << status.message() << "\n";
  return exit_of(status.code());
}

int run(int argc, char** argv) {
  CLI::App app("cvol: replicated block storage for containers", "cvol");
  app.footer(kFooter);
  app.fallthrough();
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("cvol ") + CVOL_VERSION);
  Settings settings;
  Chosen chosen;
  std::string output = "table";
  app.add_option("--api", settings.api, "Address of volumed: unix:/path or tcp:HOST:PORT");
  app.add_option("-o,--output", output, "table or json")->check(CLI::IsMember({"table", "json"}));
  add_commands(app, settings, chosen);
  std::string shell;
  CLI::App* completion = app.add_subcommand("completion", "Print a script for shell completion");
  completion->add_option("SHELL", shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  if (argc >= 2 && std::string(argv[1]) == "__complete") {
    std::vector<std::string> words(argv + 2, argv + argc);
    if (!words.empty() && words.front() == "--") words.erase(words.begin());
    for (const auto& text :
         complete(app, words,
                  {[&] { return volume_names(settings); }, [&] { return disk_paths(settings); }}))
      std::cout << text << "\n";
    return kExitOk;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (const std::string unknown = explain_unknown(app, argc, argv); !unknown.empty()) {
      std::cerr << "cvol: " << unknown << "\n";
      return kExitUsage;
    }
    const int code = app.exit(error, std::cout, std::cerr);
    return code == 0 ? kExitOk : kExitUsage;
  }
  if (completion->parsed()) {
    std::cout << completion_script(shell);
    return kExitOk;
  }
  settings.json = output == "json";
  auto client = api::ApiClient::open(api::api_address(settings.api));
  if (!client) return fail(client.status());
  const Status status = chosen.run(**client, settings, std::cout);
  return status.is_ok() ? kExitOk : fail(status);
}

}  // namespace
}  // namespace cvol::cli

int main(int argc, char** argv) {
  return cvol::cli::run(argc, argv);
}
