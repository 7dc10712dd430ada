//! A UDP route: dig asks the resolver through the router.

use std::process::Command;

use crate::ports::free_port;
use crate::stage::Stage;

#[test]
fn a_resolver_behind_a_udp_route_answers_dig() {
    let mut stage = Stage::set("");
    let (port, dns) = (free_port(), stage.dns);
    stage.write(&format!(
        "[[listeners]]\nname = \"ns\"\nbind = \"127.0.0.1:{port}\"\nprotocol = \"udp\"\n\
         [[services]]\nname = \"resolver\"\nprotocol = \"udp\"\ninstances = [{{ addr = \"{dns}\" }}]\n\
         [[routes]]\nlistener = \"ns\"\nservice = \"resolver\"\n"
    ));
    stage.up();
    let dig = |name: &str| {
        let port = port.to_string();
        let asked = Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+short", "+tries=1", "+timeout=2", name])
            .output()
            .unwrap();
        String::from_utf8(asked.stdout).unwrap()
    };
    for name in ["resolver.cluster.internal", "leader.resolver.cluster.internal"] {
        stage.wait(name, || (dig(name).trim() == "127.0.0.1").then_some(()));
    }
    let routes = stage.json(&["routes"]);
    assert_eq!(routes[0]["kind"], "udp");
    assert_eq!(routes[0]["warnings"], serde_json::json!([]));
    let services = stage.ok(&["services"]);
    assert!(services.contains("udp"), "{services}");
}
