//! The official MCP SDK's client, whose every byte goes through a bottle.

use std::time::Duration;

use serde_json::{Value, json};

use super::{MANIFEST, get, up, upstream};
use crate::support::Home;

/// Forwards each connection of `listener` to the supervise port inside the bottle, through `bottle
/// exec`.
async fn forward_inside(home: &Home, listener: tokio::net::UnixListener) {
    let script = "exec 3<>/dev/tcp/127.0.0.1/9100; cat <&3 & cat >&3";
    while let Ok((stream, _)) = listener.accept().await {
        let mut command = tokio::process::Command::from(
            home.bottle(&["exec", "worker", "--", "bash", "-c", script]),
        );
        let stdio = std::process::Stdio::piped;
        let mut child = command.stdin(stdio()).stdout(stdio()).kill_on_drop(true).spawn().unwrap();
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        tokio::task::spawn_local(async move {
            let (mut read, mut write) = stream.into_split();
            let up = async {
                let _ = tokio::io::copy(&mut read, &mut to).await;
            };
            let down = async {
                let _ = tokio::io::copy(&mut from, &mut write).await;
            };
            tokio::select! { () = up => {}, () = down => {} }
            let _ = child.kill().await;
        });
    }
}

/// A client that is connected to the server in the bottle.
pub type Client = rmcp::service::RunningService<rmcp::RoleClient, ()>;

/// Runs `work` with a client that is connected to the server in the bottle.
pub fn with_sdk<R>(home: &Home, work: impl AsyncFnOnce(&Client) -> R) -> R {
    use rmcp::ServiceExt;
    use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
    use rmcp::transport::{StreamableHttpClientTransport, UnixSocketHttpClient};
    const URL: &str = "http://127.0.0.1:9100/";
    let socket = home.path().join("sdk");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let asked = async {
            let http = UnixSocketHttpClient::new(socket.to_str().unwrap(), URL);
            let config = StreamableHttpClientTransportConfig::with_uri(URL);
            let client =
                ().serve(StreamableHttpClientTransport::with_client(http, config)).await.unwrap();
            work(&client).await
        };
        tokio::select! {
            done = asked => done,
            () = forward_inside(home, listener) => panic!("the listener ended"),
        }
    })
}

/// Proposes the route that the latest denial suggests; returns the answer.
pub async fn sdk_asks(client: &Client, reason: &str, wait: u32) -> Value {
    let call = async |name: &'static str, args: Value| {
        let params = rmcp::model::CallToolRequestParams::new(name)
            .with_arguments(args.as_object().unwrap().clone());
        client.call_tool(params).await.unwrap().structured_content.unwrap()
    };
    let denied = call("explain_denial", json!({ "last": 1 })).await;
    let mut wanted = denied["denials"][0]["propose_route"].clone();
    wanted["reason"] = json!(reason);
    wanted["wait_seconds"] = json!(wait);
    call("propose_route", wanted).await
}

pub fn sdk() {
    let home = Home::with_manifest(MANIFEST);
    let bottle = up(&home);
    let port = upstream();
    let url = format!("http://127.0.0.1:{port}/v1/x");
    assert!(get(&bottle, &url).contains("[no-route]"));
    let told = with_sdk(&home, async |client| {
        assert_eq!(client.list_all_tools().await.unwrap().len(), 8);
        let approved = async {
            let approve = || {
                home.run(&["proposals", "approve", "worker/1", "--type", "127.0.0.1"])
                    .status
                    .success()
            };
            while !approve() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::join!(sdk_asks(client, "the SDK's client needs it", 50), approved).0
    });
    assert_eq!(told["state"], "approved", "{told}");
    assert_eq!(get(&bottle, &url), "through");
    bottle.stop();
}
