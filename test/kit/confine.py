#!/usr/bin/env python3
"""Runs a program under a seccomp profile, as a container runtime would: confine.py [--kill] PROFILE COMMAND...

Reads the runtimes' JSON (LinuxSeccomp of the OCI runtime specification) and hands it to libseccomp, which they use too.
--kill: a call that the profile does not name ends the program, so that none goes unnoticed."""
import ctypes
import json
import os
import sys

ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000}
COMPARISONS = {"SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
ARCHITECTURES = {"SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_AARCH64": 0xC00000B7}
KILL_PROCESS = 0x80000000
NO_SUCH_CALL = -1


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def library():
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    lib.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    lib.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison)]
    return lib


def action(rule, name, errno):
    """The number that libseccomp gives to an action; with a missing errno the runtimes answer EPERM."""
    value = ACTIONS[rule[name]]
    return value if rule[name] == "SCMP_ACT_ALLOW" else value | rule.get(errno, 1)


def comparison(arg):
    op = COMPARISONS[arg["op"]]
    # MASKED_EQ: the mask is the first value, what must be equal the second (Docker and the specification have them so).
    return Comparison(arg["index"], op, arg["value"], arg.get("valueTwo", 0))


def load(profile, kill):
    lib = library()
    default = KILL_PROCESS if kill else action(profile, "defaultAction", "defaultErrnoRet")
    context = lib.seccomp_init(default)
    for name in profile["architectures"]:
        if lib.seccomp_arch_add(context, ARCHITECTURES[name]) not in (0, -17):  # EEXIST: this machine's own
            sys.exit(f"confine: {name} cannot be added")
    for rule in profile["syscalls"]:
        act = action(rule, "action", "errnoRet")
        if act == default:
            continue
        args = [comparison(a) for a in rule.get("args", [])]
        for name in rule["names"]:
            number = lib.seccomp_syscall_resolve_name(name.encode())
            if number == NO_SUCH_CALL:
                sys.exit(f"confine: no system call is named {name}")
            if lib.seccomp_rule_add_array(context, act, number, len(args), (Comparison * len(args))(*args)) != 0:
                sys.exit(f"confine: the rule of {name} is refused")
    failed = lib.seccomp_load(context)
    if failed != 0:
        sys.exit(f"confine: the filter is refused: {os.strerror(-failed)}")


words = sys.argv[1:]
kill = words[0] == "--kill"
path, *command = words[1:] if kill else words
with open(path, encoding="utf-8") as file:
    load(json.load(file), kill)
os.execvp(command[0], command)
