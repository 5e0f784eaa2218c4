//! The plugin as a runtime calls it, with an agent that is played: what starts without one, what waits, what never fails.
use std::cell::RefCell;
use std::collections::BTreeMap;

use fairlead_cni::agent::{Agent, Answer, read_answer};
use fairlead_cni::config::{Config, VERSIONS};
use fairlead_cni::fault::{Code, Fault};
use fairlead_cni::plugin::{Done, run};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Answers with what it is given and keeps what it was asked.
struct Played {
    answer: Answer,
    asked: RefCell<Vec<Value>>,
}

impl Played {
    fn new(answer: Answer) -> Self {
        Self { answer, asked: RefCell::default() }
    }
}
impl Agent for Played {
    fn ask(&self, _config: &Config, question: &str, _wait_ms: u64) -> Answer {
        self.asked.borrow_mut().push(serde_json::from_str(question).expect("JSON"));
        self.answer.clone()
    }
}

const RESULT: &str = r#"{ "cniVersion": "1.0.0", "interfaces": [{"name":"eth0","sandbox":"/run/netns/x"}],
  "ips": [{"interface":0,"address":"10.1.2.3/24"},{"address":"fd00::3/64"}], "big": 123456789012345678901234567890 }"#;

fn input(own: &str) -> Vec<u8> {
    let head = r#""cniVersion":"1.0.0","name":"pods","type":"fairlead-cni""#;
    format!(r#"{{{head}{own},"prevResult":{RESULT}}}"#).into_bytes()
}

fn call(command: &str, changes: &[(&str, &str)], input: &[u8], agent: &dyn Agent) -> Done {
    let mut env = BTreeMap::from([
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-1.a;K8S_POD_UID=ab-12"),
    ]);
    env.extend(changes.iter().copied());
    run(&|name| env.get(name).map(|v| (*v).to_owned()), input, agent)
}

fn away() -> Answer {
    Err(Fault::new(Code::TryAgain, "the agent is away", "no such file"))
}

fn fault(done: &Done) -> Value {
    assert!(!done.good, "{done:?}");
    serde_json::from_str(&done.output).expect("the error is JSON")
}

#[test]
#[doc = "[INT-11] ADD asks the agent about the pod and passes the result of the plugins before on, to the byte"]
fn add_asks_and_passes_on() {
    let agent = Played::new(Ok("enrolled".into()));
    let done = call("ADD", &[], &input(""), &agent);
    assert_eq!((done.good, done.output), (true, format!("{RESULT}\n")));
    let asked = agent.asked.borrow();
    assert_eq!(asked.len(), 1);
    let expected = json!({
        "version": 1, "command": "add", "containerId": "c0ffee", "netns": "/run/netns/x", "netnsInode": 0, "interface": "eth0",
        "namespace": "shop", "name": "cart-1.a", "uid": "ab-12", "addresses": ["10.1.2.3", "fd00::3"],
    });
    assert_eq!(asked[0], expected);
}

#[test]
#[doc = "[DP-22] without an agent a pod waits, and one of an excluded namespace starts"]
fn without_an_agent() {
    let agent = Played::new(away());
    let told = fault(&call("ADD", &[], &input(""), &agent));
    assert_eq!((told["code"].as_u64(), told["cniVersion"].as_str()), (Some(11), Some("1.0.0")));
    assert_eq!(told["msg"], "fairlead: the agent is away");
    let excluded = input(r#","excludedNamespaces":["kube-system","shop"]"#);
    assert!(call("ADD", &[], &excluded, &agent).good);
    // A container that is no pod belongs to nobody's namespace.
    assert!(call("ADD", &[("CNI_ARGS", "")], &input(""), &agent).good);
    assert_eq!(agent.asked.borrow().len(), 1);
}

#[test]
#[doc = "[DP-21] DEL and GC never fail: not without an agent, not with a broken configuration, not without a namespace"]
fn del_never_fails() {
    let agent = Played::new(away());
    for bytes in [input(""), input(r#","socket":7"#), b"not json".to_vec(), Vec::new()] {
        for changes in [&[][..], &[("CNI_NETNS", "")], &[("CNI_CONTAINERID", "")], &[("CNI_ARGS", "x")]] {
            let done = call("DEL", changes, &bytes, &agent);
            assert_eq!((done.good, done.output.as_str()), (true, ""), "{changes:?}");
            assert!(call("GC", changes, &bytes, &agent).good);
        }
    }
    assert_eq!(call("DEL", &[("CNI_NETNS", "")], &input(""), &Played::new(Ok(String::new()))).note, "");
}

#[test]
#[doc = "[DP-22] STATUS is good without an agent, which must not take the node away; it is not with a configuration that ADD would refuse"]
fn status() {
    assert!(call("STATUS", &[], &input(""), &Played::new(away())).good);
    assert_eq!(fault(&call("STATUS", &[], &input(r#","answerMs":-1"#), &Played::new(away())))["code"], 7);
}

#[test]
fn check_asks_the_agent() {
    let agent = Played::new(away());
    assert_eq!(fault(&call("CHECK", &[], &input(""), &agent))["code"], 11);
    assert_eq!(agent.asked.borrow()[0]["command"], "check");
    let done = call("CHECK", &[], &input(""), &Played::new(Ok(String::new())));
    assert_eq!((done.good, done.output.as_str()), (true, ""));
}

#[test]
fn version_names_what_is_supported() {
    let done = call("VERSION", &[], br#"{"cniVersion":"0.4.0"}"#, &Played::new(away()));
    let told: Value = serde_json::from_str(&done.output).expect("JSON");
    assert_eq!(told, json!({ "cniVersion": "0.4.0", "supportedVersions": VERSIONS }));
}

#[test]
#[doc = "[INT-11] what is wrong is told by CNI's codes, with the field"]
fn faults_name_the_field() {
    let agent = Played::new(Ok(String::new()));
    let add = |changes: &[(&str, &str)], bytes: &[u8]| {
        let told = fault(&call("ADD", changes, bytes, &agent));
        (told["code"].as_u64().expect("a code"), told["msg"].as_str().expect("a message").to_owned())
    };
    let cases: &[(u64, &str, &str)] = &[
        (7, "excludeNamespaces: is not known", r#","excludeNamespaces":[]"#),
        (7, "excludedNamespaces[1]", r#","excludedNamespaces":["a","B"]"#),
        (7, "socket", r#","socket":"run/x""#),
        (7, "agentWaitMs", r#","agentWaitMs":1.5"#),
        (6, "not a JSON object", r#","socket":"/a","socket":"/b""#),
    ];
    for (code, text, own) in cases {
        let (told, msg) = add(&[], &input(own));
        assert!(told == *code && msg.contains(text), "{own}: {told} {msg}");
    }
    assert_eq!(add(&[], br#"{"cniVersion":"9.0.0"}"#).0, 1);
    assert_eq!(
        add(&[], br#"{"cniVersion":"1.0.0"}"#),
        (7, "fairlead: configuration of the plugin: prevResult: is missing: this plugin stands after another one in its list".into())
    );
    for (name, value) in [("CNI_CONTAINERID", "a/b"), ("CNI_NETNS", "x"), ("CNI_IFNAME", "a b"), ("CNI_ARGS", "K8S_POD_NAMESPACE=A;K8S_POD_NAME=b")] {
        let (code, msg) = add(&[(name, value)], &input(""));
        assert!(code == 4 && msg.contains(name), "{msg}");
    }
    assert_eq!(add(&[("CNI_COMMAND", "add")], &input("")).0, 4);
    assert_eq!(add(&[], &vec![b' '; 2 << 20]).0, 6);
}

#[test]
#[doc = "[INT-11] an answer that is none is told as such"]
fn answers() {
    assert_eq!(read_answer(br#"{"version":1,"outcome":"ok","reason":"r"}"#), Ok("r".into()));
    let of = |text: &str| read_answer(text.as_bytes()).expect_err("a fault").code;
    assert_eq!(of(r#"{"version":1,"outcome":"failed","message":"m","retry":true}"#), Code::TryAgain);
    assert_eq!(of(r#"{"version":1,"outcome":"failed","message":"m"}"#), Code::Refused);
    for text in ["", "7", "{}", r#"{"version":2,"outcome":"ok"}"#, r#"{"version":1}"#, r#"{"version":1,"outcome":"failed"}"#] {
        assert_eq!(of(text), Code::Protocol, "{text}");
    }
}

proptest! {
    /// Whatever comes in: no panic, one JSON object or nothing on the output, and ADD is good only after a yes of the agent.
    #[test]
    fn any_input_is_answered(
        bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), json_like().prop_map(String::into_bytes)],
        command in prop_oneof![Just("ADD"), Just("DEL"), Just("CHECK"), Just("GC"), Just("STATUS"), Just("VERSION"), Just("X")],
        args in "[A-Z0-9_=;a-z.-]{0,60}",
        yes in any::<bool>(),
    ) {
        let agent = Played::new(if yes { Ok(String::new()) } else { away() });
        let done = call(command, &[("CNI_ARGS", &args)], &bytes, &agent);
        prop_assert!(done.output.is_empty() || serde_json::from_str::<Value>(&done.output).is_ok());
        if command == "DEL" || command == "GC" { prop_assert!(done.good) }
        if !done.good {
            let told: Value = serde_json::from_str(&done.output).expect("JSON");
            prop_assert!(told["code"].is_u64() && told["msg"].is_string() && told["cniVersion"].is_string());
        }
        if command == "ADD" && !yes && !agent.asked.borrow().is_empty() { prop_assert!(!done.good) }
    }

    /// The result of others comes through as it is, whatever is in it.
    #[test]
    fn results_come_through(extra in json_like()) {
        let text = format!(r#"{{"ips":[],"x":{extra}}}"#);
        let bytes = format!(r#"{{"cniVersion":"1.1.0","prevResult":{text}}}"#);
        let done = call("ADD", &[], bytes.as_bytes(), &Played::new(Ok(String::new())));
        prop_assert_eq!(done.output, format!("{text}\n"));
    }
}

fn json_like() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("-0.10e5".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        "[a-zA-Z/:. ]{0,12}".prop_map(|s| format!("{s:?}")),
    ];
    let key =
        prop_oneof![Just("cniVersion"), Just("prevResult"), Just("ips"), Just("address"), Just("socket"), Just("excludedNamespaces"), Just("name"),];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
            proptest::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|v| format!("{{{}}}", v.iter().map(|(k, x)| format!("{k:?}:{x}")).collect::<Vec<_>>().join(", "))),
        ]
    })
}
