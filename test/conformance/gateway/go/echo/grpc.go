package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The service `proto.EchoTestService` has `rpc Echo(EchoRequest) returns (EchoResponse)`, and both messages are one `string message = 1`. On the
// wire that is google.protobuf.StringValue, so no code has to be generated for it.
const (
	echoService = "proto.EchoTestService"
	echoMethod  = "/" + echoService + "/Echo"
)

type echoServer interface {
	echo(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error)
}

var echoServiceDesc = grpc.ServiceDesc{
	ServiceName: echoService,
	HandlerType: (*echoServer)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := decode(in); err != nil {
				return nil, err
			}
			handler := func(ctx context.Context, request any) (any, error) {
				return srv.(echoServer).echo(ctx, request.(*wrapperspb.StringValue))
			}
			if intercept == nil {
				return handler(ctx, in)
			}
			return intercept(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: echoMethod}, handler)
		},
	}},
}
