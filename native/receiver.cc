#include "receiver.h"

#include <algorithm>
#include <cerrno>

namespace {
constexpr uint32_t MAX_SLOTS = 1024;
constexpr uint32_t MAX_SLOT_SIZE = 1 << 20;
}  // namespace

Napi::Function Receiver::Define(Napi::Env env) {
  return DefineClass(env, "Receiver",
                     {InstanceAccessor<&Receiver::Buffer>("buffer"), InstanceAccessor<&Receiver::Lengths>("lengths")});
}

Receiver::Receiver(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Receiver>(info) {
  Napi::Env env = info.Env();
  uint32_t slots = info[0].ToNumber().Uint32Value();
  uint32_t slot_size = info[1].ToNumber().Uint32Value();
  if (slots == 0 || slots > MAX_SLOTS || slot_size == 0 || slot_size > MAX_SLOT_SIZE) {
    Napi::RangeError::New(env, "Receiver(slots: 1 to 1024, slotSize: 1 to 1048576)").ThrowAsJavaScriptException();
    return;
  }
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, static_cast<size_t>(slots) * slot_size);
  Napi::Int32Array lengths = Napi::Int32Array::New(env, slots);
  if (env.IsExceptionPending()) {
    return;
  }
  buffer_ = Napi::Persistent(buffer);
  lengths_ = Napi::Persistent(lengths);
  length_values_ = lengths.Data();
  headers_.resize(slots);
  vectors_.resize(slots);
  auto* bytes = static_cast<char*>(buffer.Data());
  for (uint32_t i = 0; i < slots; i++) {
    vectors_[i] = {bytes + static_cast<size_t>(i) * slot_size, slot_size};
    headers_[i] = {};
    headers_[i].msg_hdr.msg_iov = &vectors_[i];
    headers_[i].msg_hdr.msg_iovlen = 1;
  }
}

int Receiver::Receive(int fd, unsigned limit) {
  unsigned wanted = std::min(limit, slots());
  int count;
  do {
    count = recvmmsg(fd, headers_.data(), wanted, MSG_DONTWAIT, nullptr);
  } while (count < 0 && errno == EINTR);
  if (count < 0) {
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
  }
  for (int i = 0; i < count; i++) {
    int32_t length = static_cast<int32_t>(headers_[i].msg_len);
    length_values_[i] = (headers_[i].msg_hdr.msg_flags & MSG_TRUNC) != 0 ? -length : length;
  }
  return count;
}

Napi::Value Receiver::Buffer(const Napi::CallbackInfo&) { return buffer_.Value(); }

Napi::Value Receiver::Lengths(const Napi::CallbackInfo&) { return lengths_.Value(); }
