#include "nbd/attach/netlink.h"

#include <linux/nbd-netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <poll.h>

#include <utility>

#include "volumed/base/assert.h"

namespace cvol::attach {
namespace {

Status failed(int error, const std::string& doing) {
  Code code = Code::kIo;
  if (error == -NLE_BUSY) code = Code::kBusy;
  if (error == -NLE_PERM || error == -NLE_NOACCESS) code = Code::kPermission;
  if (error == -NLE_INVAL) code = Code::kInvalidArgument;
  if (error == -NLE_OBJ_NOTFOUND || error == -NLE_NODEV) code = Code::kNotFound;
  return Status(code, doing + ": " + nl_geterror(error));
}

// A message under construction; a failed put is kept until it is sent.
class Message {
 public:
  Message(int family, uint8_t command) : message_(nlmsg_alloc()) {
    CVOL_ASSERT(message_ != nullptr);
    CVOL_ASSERT(genlmsg_put(message_, NL_AUTO_PORT, NL_AUTO_SEQ, family, 0, 0, command, 0));
  }
  ~Message() {
    if (message_ != nullptr) nlmsg_free(message_);
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;

  void number(int attribute, uint64_t value) { note(nla_put_u64(message_, attribute, value)); }
  void index(uint32_t value) { note(nla_put_u32(message_, NBD_ATTR_INDEX, value)); }
  void text(int attribute, const std::string& value) {
    note(nla_put_string(message_, attribute, value.c_str()));
  }
  void sockets(const std::vector<int>& descriptors) {
    nlattr* list = nla_nest_start(message_, NBD_ATTR_SOCKETS);
    for (int descriptor : descriptors) {
      nlattr* item = nla_nest_start(message_, NBD_SOCK_ITEM);
      note(nla_put_u32(message_, NBD_SOCK_FD, static_cast<uint32_t>(descriptor)));
      nla_nest_end(message_, item);
    }
    nla_nest_end(message_, list);
  }

  // Sends and waits for the kernel's acknowledgement.
  Status send(nl_sock* socket, const std::string& doing) {
    if (error_ < 0) return failed(error_, doing);
    int result = nl_send_sync(socket, std::exchange(message_, nullptr));
    return result < 0 ? failed(result, doing) : Status::ok();
  }

 private:
  void note(int result) {
    if (result < 0 && error_ == 0) error_ = result;
  }
  nl_msg* message_;
  int error_ = 0;
};

// The index in a message of the driver; false if it is none of `command`.
bool index_of(nl_msg* message, uint8_t command, uint32_t& into) {
  nlattr* attributes[NBD_ATTR_MAX + 1] = {};
  auto* header = static_cast<genlmsghdr*>(nlmsg_data(nlmsg_hdr(message)));
  if (header->cmd != command) return false;
  if (nla_parse(attributes, NBD_ATTR_MAX, genlmsg_attrdata(header, 0), genlmsg_attrlen(header, 0),
                nullptr) != 0 ||
      attributes[NBD_ATTR_INDEX] == nullptr) {
    return false;
  }
  into = nla_get_u32(attributes[NBD_ATTR_INDEX]);
  return true;
}

int on_connect_reply(nl_msg* message, void* context) {
  uint32_t index = 0;
  if (index_of(message, NBD_CMD_CONNECT, index)) *static_cast<int64_t*>(context) = index;
  return NL_OK;
}

int on_event(nl_msg* message, void* context) {
  uint32_t index = 0;
  if (index_of(message, NBD_CMD_LINK_DEAD, index)) {
    static_cast<std::vector<uint32_t>*>(context)->push_back(index);
  }
  return NL_OK;
}

}  // namespace

void NbdNetlink::Free::operator()(nl_sock* socket) const {
  nl_socket_free(socket);
}

Result<NbdNetlink> NbdNetlink::open() {
  NbdNetlink link;
  link.socket_.reset(nl_socket_alloc());
  if (link.socket_ == nullptr) return Status(Code::kInternal, "no memory for a netlink socket");
  if (int error = genl_connect(link.socket_.get()); error < 0) {
    return failed(error, "connect to generic netlink");
  }
  link.family_ = genl_ctrl_resolve(link.socket_.get(), "nbd");
  if (link.family_ < 0) {
    return Status(Code::kUnsupported, "attach by kernel NBD needs the nbd module (modprobe nbd)");
  }
  return link;
}

Result<uint32_t> NbdNetlink::connect(const KernelDeviceOptions& options,
                                     const std::vector<int>& sockets) {
  Message message(family_, NBD_CMD_CONNECT);
  message.number(NBD_ATTR_SIZE_BYTES, options.size_bytes);
  message.number(NBD_ATTR_BLOCK_SIZE_BYTES, options.block_bytes);
  message.number(NBD_ATTR_SERVER_FLAGS, options.server_flags);
  message.number(NBD_ATTR_TIMEOUT, options.timeout_seconds);
  message.number(NBD_ATTR_DEAD_CONN_TIMEOUT, options.dead_connection_seconds);
  message.text(NBD_ATTR_BACKEND_IDENTIFIER, options.backend_identifier);
  message.sockets(sockets);
  int64_t index = -1;
  nl_socket_modify_cb(socket_.get(), NL_CB_VALID, NL_CB_CUSTOM, on_connect_reply, &index);
  CVOL_TRY(message.send(socket_.get(), "connect a kernel NBD device"));
  if (index < 0) return Status(Code::kInternal, "the nbd driver did not name the device it made");
  return static_cast<uint32_t>(index);
}

Status NbdNetlink::offer_socket(uint32_t index, const std::string& backend_identifier, int socket) {
  Message message(family_, NBD_CMD_RECONFIGURE);
  message.index(index);
  message.text(NBD_ATTR_BACKEND_IDENTIFIER, backend_identifier);
  message.sockets({socket});
  return message.send(socket_.get(), "reconnect nbd" + std::to_string(index));
}

Status NbdNetlink::resize(uint32_t index, const std::string& backend_identifier,
                          uint64_t size_bytes) {
  Message message(family_, NBD_CMD_RECONFIGURE);
  message.index(index);
  message.text(NBD_ATTR_BACKEND_IDENTIFIER, backend_identifier);
  message.number(NBD_ATTR_SIZE_BYTES, size_bytes);
  return message.send(socket_.get(), "resize nbd" + std::to_string(index));
}

Status NbdNetlink::disconnect(uint32_t index) {
  Message message(family_, NBD_CMD_DISCONNECT);
  message.index(index);
  return message.send(socket_.get(), "disconnect nbd" + std::to_string(index));
}

Status NbdNetlink::join_events() {
  int group = genl_ctrl_resolve_grp(socket_.get(), "nbd", "nbd_mc_group");
  if (group < 0) return failed(group, "find the events of the nbd driver");
  nl_socket_disable_seq_check(socket_.get());
  int error = nl_socket_add_membership(socket_.get(), group);
  return error < 0 ? failed(error, "join the events of the nbd driver") : Status::ok();
}

Result<std::vector<uint32_t>> NbdNetlink::wait_link_dead(int wake_descriptor) {
  std::vector<uint32_t> dead;
  nl_socket_modify_cb(socket_.get(), NL_CB_VALID, NL_CB_CUSTOM, on_event, &dead);
  while (dead.empty()) {
    pollfd waits[] = {{nl_socket_get_fd(socket_.get()), POLLIN, 0}, {wake_descriptor, POLLIN, 0}};
    if (poll(waits, 2, -1) < 0) continue;
    if (waits[1].revents != 0) return dead;
    // NLE_NOMEM: events were lost; the caller looks at every device then.
    if (int error = nl_recvmsgs_default(socket_.get()); error < 0) {
      return failed(error, "receive an event of the nbd driver");
    }
  }
  return dead;
}

}  // namespace cvol::attach
