//! The sockets of the admin listener: how many, and how long a caller may take.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Context, routes};

/// Callers at once; one more waits in the kernel's queue. Streams of events count too.
const CONNECTIONS_MAX: usize = 128;
/// A call's head must be here by then; a kept connection is closed after as long without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After an accept that failed, such as for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin listener until told to stop, and finishes the calls under way then.
pub async fn serve(listener: Arc<TcpListener>, context: Arc<Context>) {
    let cancel = context.cancel.clone();
    let app = routes(context);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    tokio::select! {
        _ = accept(&listener, &app, &permits, &tasks, &cancel) => {}
        () = cancel.cancelled() => {}
    }
    tasks.close();
    tasks.wait().await;
}

async fn accept(
    listener: &TcpListener,
    app: &Router,
    permits: &Arc<Semaphore>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Infallible {
    loop {
        let permit = Arc::clone(permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                tasks.spawn(connection(stream, app.clone(), permit, cancel.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    app: Router,
    _permit: OwnedSemaphorePermit,
    cancel: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a call of the API was cut");
    }
}
