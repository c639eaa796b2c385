#include "ethtool.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "system_error.h"

Napi::Value IoctlEthtool(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (info.Length() < 3 || !info[0].IsString() || !info[1].IsNumber() || !info[2].IsNumber()) {
    Napi::TypeError::New(env, "ioctlEthtool(name: string, command: number, value: number)").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  std::string name = info[0].As<Napi::String>().Utf8Value();
  if (name.empty() || name.size() >= IFNAMSIZ) {
    ThrowSystemError(env, "ioctl SIOCETHTOOL", ENODEV);
    return env.Undefined();
  }
  ethtool_value value{};
  value.cmd = info[1].As<Napi::Number>().Uint32Value();
  value.data = info[2].As<Napi::Number>().Uint32Value();
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), name.size());
  request.ifr_data = reinterpret_cast<char*>(&value);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    ThrowSystemError(env, "socket", errno);
    return env.Undefined();
  }
  int result = ioctl(fd, SIOCETHTOOL, &request);
  int error = errno;
  close(fd);
  if (result < 0) {
    ThrowSystemError(env, "ioctl SIOCETHTOOL", error);
    return env.Undefined();
  }
  return Napi::Number::New(env, value.data);
}
