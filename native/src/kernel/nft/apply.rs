//! Runs `nft`, or iptables and ip6tables where nft is absent, in a pod's network namespace.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::process::{Command, Stdio};

use super::rules::{self, IN_CHAIN, OUT_CHAIN, Ports, Rules};
use crate::kernel::netns;

/// The program that rules are written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Nft,
    Iptables,
}

/// Whose listeners the rules of a pod name.
#[derive(PartialEq, Eq)]
enum Owner {
    Us,
    Other,
    Nobody,
}

/// Where each jump is: table, hook, chain.
const JUMPS: [(&str, &str, &str); 2] = [("nat", "OUTPUT", OUT_CHAIN), ("mangle", "PREROUTING", IN_CHAIN)];

impl Tool {
    /// What works here, tried with rules like those of a pod but without putting them in force; the error names what is missing.
    pub fn find() -> Result<Self, String> {
        let sample = Rules::sample();
        let tried = |program: &str, args: &[&str], text: &str| run(program, args, text).map_err(|e| format!("{program} cannot be used ({e})"));
        let nft = match tried("nft", &["--check", "-f", "-"], &sample.nft()) {
            Ok(()) => return Ok(Self::Nft),
            Err(e) => e,
        };
        let restore = |program: &str, ipv6| tried(program, &["--test", "--noflush"], &sample.iptables(ipv6).unwrap_or_default());
        restore("iptables-restore", false)
            .and_then(|()| restore("ip6tables-restore", true))
            .map(|()| Self::Iptables)
            .map_err(|tables| format!("{nft}, {tables}; install nftables, or iptables with ip6tables"))
    }

    /// The program whose rules an agent has left in this namespace.
    pub fn there(namespace: BorrowedFd<'_>) -> Option<Self> {
        [Self::Nft, Self::Iptables].into_iter().find(|tool| tool.present(namespace))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }

    /// Puts the rules in force, in place of those before.
    pub fn install(self, namespace: BorrowedFd<'_>, rules: &Rules) -> io::Result<()> {
        netns::within(namespace, || match self {
            Self::Nft => run("nft", &["-f", "-"], &rules.nft()),
            Self::Iptables => {
                for (ipv6, program) in [(false, "iptables"), (true, "ip6tables")] {
                    let Some(text) = rules.iptables(ipv6) else { continue };
                    run(&format!("{program}-restore"), &["-w", "5", "--noflush"], &text)?;
                    for (table, hook, chain) in JUMPS {
                        let rule = [hook, "-p", "tcp", "-j", chain];
                        if run(program, &[&["-w", "5", "-t", table, "-C"], &rule[..]].concat(), "").is_err() {
                            run(program, &[&["-w", "5", "-t", table, "-A"], &rule[..]].concat(), "")?;
                        }
                    }
                }
                Ok(())
            }
        })
    }

    /// Puts changed rules of an agent in force in place of its own. False: a successor's are there, and stay. What somebody else
    /// removed is written again.
    pub fn rewrite(self, namespace: BorrowedFd<'_>, rules: &Rules) -> io::Result<bool> {
        match self.change(namespace, rules.v4, || rules.nft())? {
            Owner::Other => Ok(false),
            Owner::Us if self == Self::Nft => Ok(true),
            _ => self.install(namespace, rules).map(|()| true),
        }
    }

    /// As [`Self::suspend`], unless the rules are a successor's, which hears of it too.
    pub fn suspend_own(self, namespace: BorrowedFd<'_>, ipv6: bool, ports: Ports) -> io::Result<()> {
        match self.change(namespace, ports, || rules::nft_suspended(Some(ports)))? {
            Owner::Other => Ok(()),
            Owner::Us if self == Self::Nft => Ok(()),
            _ => self.suspend(namespace, ipv6, Some(ports)),
        }
    }

    /// As [`Self::remove`], unless a successor has the pod by now: then false.
    pub fn remove_own(self, namespace: BorrowedFd<'_>, ipv6: bool, ports: Ports) -> io::Result<bool> {
        match self.change(namespace, ports, rules::nft_remove)? {
            Owner::Other => Ok(false),
            Owner::Us if self == Self::Nft => Ok(true),
            _ => self.remove(namespace, ipv6).map(|()| true),
        }
    }

    /// Whose rules were there. With nft `text` is done if they were the agent's own, in one transaction; iptables has none, so who calls
    /// does it a moment later.
    fn change(self, namespace: BorrowedFd<'_>, ports: Ports, text: impl FnOnce() -> String) -> io::Result<Owner> {
        if self == Self::Iptables {
            return self.owner(namespace, ports);
        }
        match netns::within(namespace, || run("nft", &["-f", "-"], &rules::nft_of(ports, &text()))) {
            Ok(()) => Ok(Owner::Us),
            Err(error) => match self.owner(namespace, ports)? {
                Owner::Us => Err(error),
                other => Ok(other),
            },
        }
    }

    /// Whose rules are in force. A program that finds none, or fails, prints nothing.
    fn owner(self, namespace: BorrowedFd<'_>, ports: Ports) -> io::Result<Owner> {
        let (sign, ours) = match self {
            Self::Nft => ("counter agent_", format!("counter {} ", rules::owner(ports))),
            Self::Iptables => ("--to-ports ", format!("--to-ports {}\n", ports.outbound)),
        };
        let listed = netns::within(namespace, || match self {
            Self::Nft => read("nft", &["list", "table", "inet", rules::TABLE]),
            Self::Iptables => read("iptables", &["-w", "5", "-t", "nat", "-S", OUT_CHAIN]),
        })?;
        Ok(match listed {
            text if text.contains(&ours) => Owner::Us,
            text if text.contains(sign) => Owner::Other,
            _ => Owner::Nobody,
        })
    }

    /// Whether an agent has enrolled this namespace before.
    pub fn present(self, namespace: BorrowedFd<'_>) -> bool {
        let asked = netns::within(namespace, || match self {
            Self::Nft => run("nft", &["list", "table", "inet", rules::TABLE], ""),
            Self::Iptables => run("iptables", &["-w", "5", "-t", "nat", "-n", "-L", OUT_CHAIN], ""),
        });
        asked.is_ok()
    }

    /// Nothing new is taken; the address translation of open connections goes on.
    pub fn suspend(self, namespace: BorrowedFd<'_>, ipv6: bool, by: Option<Ports>) -> io::Result<()> {
        netns::within(namespace, || match self {
            Self::Nft => run("nft", &["-f", "-"], &rules::nft_suspended(by)),
            // The hooks of iptables stay as long as its tables do.
            Self::Iptables => tables(ipv6)
                .try_for_each(|program| JUMPS.iter().try_for_each(|(table, _, chain)| run(program, &["-w", "5", "-t", table, "-F", chain], ""))),
        })
    }

    /// Changes the pod's sets. The iptables form has none.
    pub fn update(self, namespace: BorrowedFd<'_>, text: &str) -> io::Result<()> {
        match self {
            Self::Nft if !text.is_empty() => netns::within(namespace, || run("nft", &["-f", "-"], text)),
            _ => Ok(()),
        }
    }

    /// Tells a pod that fails open that the agent lives. The iptables form has no such state.
    pub fn alive(self, namespace: BorrowedFd<'_>, ms: u64) -> io::Result<()> {
        self.update(namespace, &rules::nft_alive(ms))
    }

    /// Removes the rules; absent ones are no error.
    pub fn remove(self, namespace: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
        netns::within(namespace, || match self {
            Self::Nft => run("nft", &["-f", "-"], &rules::nft_remove()),
            Self::Iptables => tables(ipv6).try_for_each(|program| {
                JUMPS.iter().try_for_each(|(table, hook, chain)| {
                    let call = |args: &[&str]| run(program, &[&["-w", "5", "-t", table], args].concat(), "");
                    if call(&["-n", "-L", chain]).is_err() {
                        return Ok(());
                    }
                    let _ = call(&["-D", hook, "-p", "tcp", "-j", chain]);
                    call(&["-F", chain]).and_then(|()| call(&["-X", chain]))
                })
            }),
        })
    }
}

fn tables(ipv6: bool) -> impl Iterator<Item = &'static str> {
    std::iter::once("iptables").chain(ipv6.then_some("ip6tables"))
}

/// What a program prints.
fn read(program: &str, args: &[&str]) -> io::Result<String> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a program with text on its standard input; the error is what it said. A child is of the calling thread's namespace.
fn run(program: &str, args: &[&str], input: &str) -> io::Result<()> {
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read all says why by itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let done = child.wait_with_output()?;
    match done.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&done.stderr);
            Err(io::Error::other(format!("{program}: {}", said.lines().next().unwrap_or("failed without a word"))))
        }
    }
}
