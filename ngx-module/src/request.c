/*
 * The flags of a request, for version.rs, which says why Rust does not read them itself.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


ngx_uint_t
ngx_http_shunt_header_only(ngx_http_request_t *r)
{
    return r->header_only;
}


ngx_uint_t
ngx_http_shunt_header_sent(ngx_http_request_t *r)
{
    return r->header_sent;
}


void
ngx_http_shunt_disable_not_modified(ngx_http_request_t *r)
{
    r->disable_not_modified = 1;
}
