//! HTTPS: connections are accepted, shaken hands with and served side by side, so that one that does nothing
//! keeps nobody waiting.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::tls::{Clients, Tls};

/// Connections at a time; more wait until one ends.
const CONNECTIONS: usize = 256;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the next request's head is waited for. Longer than a Go client keeps an idle connection (90 s), so
/// that it is never closed under a request that is on its way.
const IDLE: Duration = Duration::from_secs(120);
/// After a connection that could not be accepted: no descriptor is free, and none will be at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves, for as long as it is polled.
pub async fn serve(listener: TcpListener, tls: Arc<Tls>, clients: Clients, routes: Router) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&free).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (tls, routes) = (Arc::clone(&tls), routes.clone());
                tokio::spawn(async move {
                    one(stream, &tls, clients, routes).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn one(stream: TcpStream, tls: &Tls, clients: Clients, routes: Router) {
    // An answer waits for nothing: it is one small write.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let shaken = tokio::time::timeout(HANDSHAKE, tls.acceptor(clients).accept(stream)).await;
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%error, "a client was not let in");
            return;
        }
        Err(_) => return,
    };
    let mut connection = http1::Builder::new();
    connection
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE);
    let service = TowerToHyperService::new(routes);
    if let Err(error) = connection
        .serve_connection(TokioIo::new(stream), service)
        .await
    {
        tracing::debug!(%error, "a connection broke");
    }
}
