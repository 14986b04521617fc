#include "volumed/io/range_lock.h"

#include "volumed/io/reactor.h"

namespace cvol::io {

void RangeLock::wake_followers(const Guard& gone) {
  for (const Claim& claim : claims_) {
    Guard& other = *claim.guard;
    if (other.blockers_ == 0 || other.ticket_ < gone.ticket_) continue;
    if (claim.begin >= gone.end_ || gone.begin_ >= claim.end) continue;
    if (--other.blockers_ > 0) continue;
    --waiting_;
    // Resumed from the loop, so that a chain of followers does not nest.
    if (other.waiter_) io::Reactor::current()->schedule(other.waiter_);
  }
}

}  // namespace cvol::io
