//! Clients that speak HTTP/3, where NGINX has it (Debian 12's has not).

use shunt_tests::build::Build;

use crate::streams::{self, Protocol::Http3};

fn a_request_over_http3_is_switched(build: &Build) {
    streams::a_request_is_switched(build, Http3);
}

fn streams_of_one_connection_go_to_the_release_of_their_time(build: &Build) {
    streams::streams_of_one_connection_go_to_the_release_of_their_time(build, Http3);
}

fn streams_that_a_client_resets_are_in_flight_no_more(build: &Build) {
    streams::streams_that_a_client_resets_are_in_flight_no_more(build, Http3);
}

each_nginx_with_http3!(
    a_request_over_http3_is_switched,
    streams_of_one_connection_go_to_the_release_of_their_time,
    streams_that_a_client_resets_are_in_flight_no_more,
);
