//! What a scrape sees of tables and services.

use std::sync::Arc;

use portolan_router::{Ask, RequestView, Table, TableCell};
use prometheus::TextEncoder;

use crate::world::*;

fn page(world: &World) -> String {
    TextEncoder::new().encode_to_string(&world.registry.gather()).unwrap()
}

#[test]
fn a_service_has_series_while_it_exists() {
    let mut world = World::of(&[up("web", "a"), put_route(&route("r", "a.test", "/"))]);
    let entry = world.table.route(&RequestView::get(&listener("main"), "a.test", "/")).unwrap();
    let picked = entry.pick(&world.table, &Ask::first(0)).unwrap();
    picked.metrics.answered(204, 0.004);
    picked.metrics.answered(999, 0.004);
    let text = page(&world);
    for line in [
        "portolan_router_requests_total{code=\"2xx\",service=\"web\"} 1",
        "portolan_router_requests_total{code=\"5xx\",service=\"web\"} 1",
        "portolan_router_request_duration_seconds_bucket{service=\"web\",le=\"0.005\"} 2",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    // Handles are the same ones after a change, and gone with the service.
    world.apply(&[up("web", "b")]);
    assert!(page(&world).contains("requests_total{code=\"2xx\",service=\"web\"} 1"));
    world.apply(&[delete_instance("web", "a"), delete_instance("web", "b")]);
    assert!(!page(&world).contains("service=\"web\""));
    picked.metrics.answered(200, 0.1);
    assert!(!page(&world).contains("service=\"web\""), "old handles count for nobody");
}

#[test]
fn what_is_under_way_is_summed_when_asked() {
    let mut world = World::of(&[up("web", "a"), up("web", "b")]);
    world.apply(&[put_route(&route("r", "a.test", "/"))]);
    let cell = TableCell::new(Arc::new(world.table.clone()), &world.metrics);
    let entry = world.table.route(&RequestView::get(&listener("main"), "a.test", "/")).unwrap();
    let held: Vec<_> = (0..3).map(|_| entry.pick(&world.table, &Ask::first(0)).unwrap()).collect();
    assert!(page(&world).contains("portolan_router_in_flight{service=\"web\"} 3"));
    drop(held);
    assert!(page(&world).contains("portolan_router_in_flight{service=\"web\"} 0"));
    drop(cell);
}

#[test]
fn a_published_table_shows_its_revision() {
    let mut world = World::of(&[up("web", "a")]);
    let cell = TableCell::new(Arc::new(Table::empty()), &world.metrics);
    world.apply(&[put_service("other")]);
    cell.publish(Arc::new(world.table.clone()));
    assert_eq!(world.metrics.table_revision.get(), 2);
    assert_eq!(world.metrics.publishes.get(), 1);
}
