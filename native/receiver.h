#pragma once

#include <napi.h>
#include <sys/socket.h>

#include <vector>

// new Receiver(slots, slotSize): the memory that sockets receive into, seen by JavaScript without copying. `buffer` is an
// ArrayBuffer of slots × slotSize bytes; datagram i of a batch starts at i × slotSize. `lengths` is an Int32Array with the
// length of each; negative where the datagram was longer than a slot and the rest is lost. Pages never written to cost
// nothing, so slots can be large. Sockets may share one, if a batch is used before the next is received.
class Receiver : public Napi::ObjectWrap<Receiver> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit Receiver(const Napi::CallbackInfo& info);

  // Takes up to `limit` datagrams that wait on a socket. Returns their number, 0 when there is none, or a negative errno.
  int Receive(int fd, unsigned limit);
  unsigned slots() const { return static_cast<unsigned>(headers_.size()); }

 private:
  Napi::Value Buffer(const Napi::CallbackInfo& info);
  Napi::Value Lengths(const Napi::CallbackInfo& info);

  Napi::Reference<Napi::ArrayBuffer> buffer_;
  Napi::Reference<Napi::Int32Array> lengths_;
  int32_t* length_values_ = nullptr;
  std::vector<mmsghdr> headers_;
  std::vector<iovec> vectors_;
};
