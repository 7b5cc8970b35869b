//! Clients that speak HTTP/2: many requests of one connection, each with a release of its own.

use shunt_tests::build::Build;

use crate::streams::{self, Protocol::Http2};

fn a_request_over_http2_is_switched(build: &Build) {
    streams::a_request_is_switched(build, Http2);
}

fn streams_of_one_connection_go_to_the_release_of_their_time(build: &Build) {
    streams::streams_of_one_connection_go_to_the_release_of_their_time(build, Http2);
}

fn streams_that_a_client_resets_are_in_flight_no_more(build: &Build) {
    streams::streams_that_a_client_resets_are_in_flight_no_more(build, Http2);
}

each_nginx!(
    a_request_over_http2_is_switched,
    streams_of_one_connection_go_to_the_release_of_their_time,
    streams_that_a_client_resets_are_in_flight_no_more,
);
