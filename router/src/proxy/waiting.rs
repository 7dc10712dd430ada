//! A request for a service of which all instances are full: it waits in line, then it goes on.

use super::begin::Order;
use super::exchange::Exchange;
use super::hit::Hit;
use super::reply::{Form, Refusal};
use super::{After, Conn};
use crate::h1::Reason;
use crate::queue;
use crate::table::Full;
use crate::worker;

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) order: Order,
    pub(super) full: Box<Full>,
}

impl Waiting {
    /// Waits for an endpoint with room, and goes on to it.
    pub(super) async fn run(self, conn: &mut Conn) -> After {
        let Self { order, full } = self;
        match queue::wait(&mut conn.client, &full, order.ends).await {
            Ok(picked) => {
                let mut exchange =
                    Box::new(Exchange::new(order, picked, worker::now(), &conn.client));
                exchange.run(conn).await
            }
            Err(Reason::ClientGone) => {
                conn.client.worker.metrics.ended(Reason::ClientGone);
                After::Close
            }
            Err(reason) => {
                let mut order = order;
                if let Some(serve) = order.plan.as_mut().and_then(|plan| plan.failed()) {
                    conn.client.worker.metrics.ended(reason);
                    let Order { facts, id, route, wish, is_secure, .. } = order;
                    let mut hit = Box::new(Hit::new(serve, facts, id, route, wish, is_secure));
                    return hit.run(conn).await;
                }
                let seconds = (worker::now() - order.started).as_secs_f64();
                full.metrics.answered(reason.status(), seconds);
                let Order { facts, id, looks, route, is_secure, .. } = order;
                let form = Form { route: Some(route), looks, is_secure };
                Box::new(Refusal::of_request(reason, facts, id, form)).send(conn).await
            }
        }
    }
}
