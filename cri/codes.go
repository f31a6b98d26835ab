package cri

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// codeOf is the one place where a kind of error gets its gRPC code.
var codeOf = map[errkind.Kind]codes.Code{
	errkind.Unknown:            codes.Unknown,
	errkind.NotFound:           codes.NotFound,
	errkind.AlreadyExists:      codes.AlreadyExists,
	errkind.InvalidArgument:    codes.InvalidArgument,
	errkind.FailedPrecondition: codes.FailedPrecondition,
	errkind.Unavailable:        codes.Unavailable,
	errkind.ResourceExhausted:  codes.ResourceExhausted,
	errkind.Unimplemented:      codes.Unimplemented,
	errkind.DeadlineExceeded:   codes.DeadlineExceeded,
	errkind.Canceled:           codes.Canceled,
	errkind.DataLoss:           codes.DataLoss,
	errkind.PermissionDenied:   codes.PermissionDenied,
}

// toStatus gives err its code. An error that is a status already, such as one
// of grpc's own, stays what it is.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	return status.Error(codeOf[errkind.Of(err)], err.Error())
}
