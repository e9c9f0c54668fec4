//! Listeners on the guest's 127.0.0.1 whose connections go to the bundle's daemons.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::{args, net};

/// Bytes in flight per direction of a connection, in addition to the sockets' own buffers.
const BUFFER_BYTES: usize = 16 * 1024;

/// Copies bytes both ways until both ends have closed. The end of one direction is passed on as a
/// half-close; an error ends both.
pub async fn splice<B: AsyncRead + AsyncWrite + Unpin>(mut a: TcpStream, mut b: B) {
    let _ = a.set_nodelay(true);
    // Nobody could be told of an error: both peers see it because both ends are dropped.
    let _ =
        tokio::io::copy_bidirectional_with_sizes(&mut a, &mut b, BUFFER_BYTES, BUFFER_BYTES).await;
}

/// Listens on 127.0.0.1:`port`.
///
/// # Errors
/// When the port is taken.
pub async fn listen(port: u16) -> Result<TcpListener, String> {
    TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|e| format!("cannot listen on 127.0.0.1:{port}: {e}"))
}

/// The next connection of `listener`. When file descriptors run out, it waits until other
/// connections have ended.
pub async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => return connection,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// `bottle-guest relay`: for engines that mount the bundle's sockets into the guest. Prints `ready`
/// when it listens on all ports.
pub fn main(args: &[String]) -> Result<ExitCode, String> {
    let mut maps = Vec::new();
    for (name, value) in args::options(args, &[])? {
        match (name.as_str(), value.split_once('=')) {
            ("map", Some((port, socket))) => {
                maps.push((args::number::<u16>("map", port)?, PathBuf::from(socket)))
            }
            _ => return Err(format!("--{name} {value}: expected --map PORT=SOCKET")),
        }
    }
    if maps.is_empty() {
        return Err("relay needs at least one --map".into());
    }
    // Some engines start without a loopback interface. Where we may not bring it up, it is up
    // already.
    let _ = net::loopback_up();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(async {
        for (port, socket) in maps {
            let listener = listen(port).await?;
            tokio::spawn(async move {
                loop {
                    let connection = accept(&listener).await;
                    let socket = socket.clone();
                    tokio::spawn(async move {
                        if let Ok(upstream) = UnixStream::connect(socket).await {
                            splice(connection, upstream).await;
                        }
                    });
                }
            });
        }
        println!("ready");
        std::future::pending::<Result<ExitCode, String>>().await
    })
}
