"""A seccomp filter: no socket, no second process, no look into another one. Needs no privilege.

The filter is a small BPF program that the kernel runs at each system call of
this process, for ever. It is read from the top; a jump says how many lines to
skip. A denied call fails with EACCES, which Python shows as PermissionError.

Source: linux/seccomp.h, linux/filter.h; numbers from asm/unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
from typing import NamedTuple

PR_SET_SECCOMP, MODE_FILTER = 22, 2
LOAD, JUMP_EQUAL, JUMP_NOT_BELOW, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL_PROCESS, FAIL = 0x7FFF0000, 0x80000000, 0x00050000  # FAIL is or-ed with the errno
NUMBER_AT, ARCH_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data, little endian
CLONE_THREAD = 0x00010000
X32 = 0x40000000  # numbers from here on are x86's other calling convention


class Machine(NamedTuple):
    """One architecture: its audit number, the calls that fail, and how threads are begun."""

    audit: int
    denied: dict[str, int]
    clone: int


_ANY = {"clone3": 435, "io_uring_setup": 425, "pidfd_getfd": 438, "pidfd_open": 434}
MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        {
            "socket": 41, "connect": 42, "bind": 49, "listen": 50, "fork": 57, "vfork": 58, "setpgid": 109,
            "setsid": 112, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "unshare": 272,
            "setns": 308, "bpf": 321, "keyctl": 250, "add_key": 248, "request_key": 249, **_ANY,
        },
        clone=56,
    ),
    "aarch64": Machine(
        0xC00000B7,
        {
            "socket": 198, "connect": 203, "bind": 200, "listen": 201, "setpgid": 154, "setsid": 157,
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "unshare": 97, "setns": 268,
            "bpf": 280, "keyctl": 219, "add_key": 217, "request_key": 218, **_ANY,
        },
        clone=220,
    ),
}  # fmt: skip


class _Line(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("yes", ctypes.c_ubyte),
        ("no", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("lines", ctypes.POINTER(_Line)))


def program(machine: Machine) -> list[tuple[int, int, int, int]]:
    """The filter as (code, lines to skip if so, lines to skip if not, value)."""
    lines = [
        (LOAD, 0, 0, ARCH_AT),
        (JUMP_EQUAL, 1, 0, machine.audit),  # 32-bit calls have other numbers: nothing here makes them
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
        (JUMP_NOT_BELOW, 0, 1, X32),
        (RETURN, 0, 0, KILL_PROCESS),
    ]
    for name, number in machine.denied.items():
        # clone3 hides its flags from a filter; "not there" makes the C library use clone
        error = errno.ENOSYS if name == "clone3" else errno.EACCES
        lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, FAIL | error)]
    return [
        *lines,
        (JUMP_EQUAL, 0, 3, machine.clone),  # a thread may be begun, a process may not
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (JUMP_BITS, 1, 0, CLONE_THREAD),
        (RETURN, 0, 0, FAIL | errno.EACCES),
        (RETURN, 0, 0, ALLOW),
    ]


def confine() -> bool:
    """Install the filter; False where the kernel or the architecture has none. The caller has set no_new_privs."""
    machine = MACHINES.get(platform.machine())
    if machine is None:
        return False
    lines = program(machine)
    array = (_Line * len(lines))(*(_Line(*line) for line in lines))
    filter_ = _Program(len(lines), array)
    result = ctypes.CDLL(None).prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(filter_), 0, 0)
    return bool(result == 0)
