from mmyolo_ext.cli.convert_weights import main

if __name__ == '__main__':
    main()
