/* A balancing method of somebody else's, as a module that is loaded. */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

static ngx_int_t
init_upstream(ngx_conf_t *cf, ngx_http_upstream_srv_conf_t *us)
{
    return ngx_http_upstream_init_round_robin(cf, us);
}

static char *
foreign(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_upstream_srv_conf_t *us;

    us = ngx_http_conf_get_module_srv_conf(cf, ngx_http_upstream_module);
    us->peer.init_upstream = init_upstream;
    us->flags = NGX_HTTP_UPSTREAM_CREATE;
    return NGX_CONF_OK;
}

static ngx_command_t commands[] = {
    { ngx_string("foreign"), NGX_HTTP_UPS_CONF|NGX_CONF_NOARGS, foreign, 0, 0, NULL },
    ngx_null_command
};

static ngx_http_module_t context;

ngx_module_t ngx_http_foreign_module = {
    NGX_MODULE_V1,
    &context, commands, NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};

ngx_module_t *ngx_modules[] = { &ngx_http_foreign_module, NULL };
char *ngx_module_names[] = { "ngx_http_foreign_module", NULL };
char *ngx_module_order[] = { NULL };
